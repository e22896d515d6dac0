//! The awkward contacts of a generated account.

use std::iter::repeat_n;

/// What is awkward about a contact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Case {
    /// Nothing is.
    Ordinary,
    /// Two contacts with the same e-mail address.
    SharedAddress,
    /// Opened one e-mail several times in the same second.
    EqualOpens,
    /// Was sent every campaign; the opens of one of them fill more than a page.
    LongHistory,
    /// Unsubscribed later than its `updated_at`, which the service does not move then.
    UnsubscribedAfterUpdate,
    /// Has not confirmed the address (`pending_confirmation`).
    Unconfirmed,
    /// The service has paused sending to it (`temp_hold`).
    OnHold,
    /// Has an address without any permission to send (`not_set`).
    PermissionNotSet,
    /// Has an SMS channel and an e-mail address.
    Sms,
    /// Has an SMS channel and no e-mail address.
    SmsOnly,
    /// Was deleted; its activity is still there.
    Deleted,
    /// Unsubscribed and was deleted later.
    DeletedUnsubscribed,
    /// Has neither an e-mail address nor an SMS channel.
    NoChannel,
    /// Quotes and an emoji in the name.
    QuotedName,
    /// A line break, a tab and a backslash in the name.
    LineBreakInName,
    /// U+0000 in the name, which most databases refuse.
    NulInName,
    /// The name ends in one half of a surrogate pair.
    LoneSurrogateAtEnd,
    /// The name begins with one half of a surrogate pair.
    LoneSurrogateAtStart,
    /// HTML in the name.
    MarkupInName,
    /// A name of 50 characters, the longest that the service accepts.
    LongName,
    /// One name is empty, the other a space.
    BlankNames,
    /// Values of a text field, of several choices, and of one choice.
    CustomFields,
    /// A value of a custom field that was deleted.
    DeletedField,
    /// Telephone numbers and a street address.
    PhonesAndStreets,
    /// Notes, one of them with milliseconds in its time.
    Notes,
    /// A choice that its field does not define, a field whose name differs from another's only in case, a birthday and
    /// an anniversary.
    UnknownChoice,
    /// A choice of a custom field that was deleted.
    DeletedFieldChoice,
}

/// For each case, how many of the first contacts it has, and how many more of every `Case::NUMBERS` later ones.
const CASES: [(Case, usize, usize); 26] = [
    (Case::SharedAddress, 2, 0),
    (Case::EqualOpens, 1, 0),
    (Case::LongHistory, 1, 0),
    (Case::UnsubscribedAfterUpdate, 2, 16),
    (Case::Unconfirmed, 1, 1),
    (Case::OnHold, 1, 1),
    (Case::PermissionNotSet, 1, 1),
    (Case::Sms, 1, 5),
    (Case::SmsOnly, 2, 2),
    (Case::Deleted, 2, 20),
    (Case::DeletedUnsubscribed, 1, 0),
    (Case::NoChannel, 1, 2),
    (Case::QuotedName, 1, 0),
    (Case::LineBreakInName, 1, 0),
    (Case::NulInName, 1, 1),
    (Case::LoneSurrogateAtEnd, 1, 0),
    (Case::LoneSurrogateAtStart, 1, 0),
    (Case::MarkupInName, 1, 0),
    (Case::LongName, 1, 0),
    (Case::BlankNames, 1, 0),
    (Case::CustomFields, 1, 0),
    (Case::DeletedField, 1, 0),
    (Case::PhonesAndStreets, 1, 0),
    (Case::Notes, 1, 0),
    (Case::UnknownChoice, 1, 0),
    (Case::DeletedFieldChoice, 1, 0),
];

impl Case {
    /// Every awkward case, in the order in which the first contacts have them.
    pub const ALL: [Case; CASES.len()] = {
        let mut all = [Case::Ordinary; CASES.len()];
        let mut i = 0;
        while i < all.len() {
            all[i] = CASES[i].0;
            i += 1;
        }
        all
    };

    /// The number of contacts from which an account has every case.
    pub const EARLY: usize = {
        let (mut sum, mut i) = (0, 0);
        while i < CASES.len() {
            sum += CASES[i].1;
            i += 1;
        }
        sum
    };

    /// A later contact draws a number below this, which decides its case.
    pub(super) const NUMBERS: usize = 200;

    /// The case of the contact at this position among the first.
    pub(super) fn early(position: usize) -> Case {
        let mut early = CASES.iter().flat_map(|(case, early, _)| repeat_n(*case, *early));
        early.nth(position).unwrap_or(Case::Ordinary)
    }

    /// The case of a later contact that drew this number.
    pub(super) fn later(number: usize) -> Case {
        let mut more = CASES.iter().flat_map(|(case, _, more)| repeat_n(*case, *more));
        match number.checked_sub(Case::EARLY) {
            Some(number) => more.nth(number).unwrap_or(Case::Ordinary),
            None => match Case::early(number) {
                // One of each is enough; more would distort a large account.
                Case::SharedAddress | Case::EqualOpens | Case::LongHistory => Case::Ordinary,
                case => case,
            },
        }
    }
}
