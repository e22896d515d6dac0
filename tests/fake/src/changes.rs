//! Changes of an account between two runs, dated by the service's clock.

use chrono::Duration;

use super::account::{Account, Case, Contact, ContactKey, Email, Id, Kind, Note, Row};
use super::generate::uuid;

impl Account {
    /// Changes the first name, which moves `updated_at`.
    pub fn rename(&mut self, contact: impl ContactKey, first_name: &str) {
        let (now, at) = (self.now(), contact.position(self));
        let contact = &mut self.contacts[at];
        contact.first_name = Some(first_name.into());
        contact.updated_at = now;
        contact.update_source = Some("Account");
    }

    /// Unsubscribes a contact. Only its e-mail block changes; its `updated_at` does not move.
    pub fn unsubscribe(&mut self, contact: impl ContactKey) {
        let (now, at) = (self.now(), contact.position(self));
        if let Some(email) = &mut self.contacts[at].email {
            email.permission = "unsubscribed";
            email.updated_at = now;
            email.opt_out_date = Some(now);
            email.opt_out_source = Some("Contact");
        }
    }

    /// Adds a tracked activity.
    pub fn track(&mut self, kind: Kind, contact: impl ContactKey, activity_id: &str) {
        let (at, contact) = (self.now(), contact.position(self));
        self.activities.push(Row {
            contact_id: self.contacts[contact].id.clone(),
            activity_id: activity_id.into(),
            kind,
            at,
        });
    }

    /// Adds an open.
    pub fn open(&mut self, contact: impl ContactKey, activity_id: &str) {
        self.track(Kind::Opens, contact, activity_id);
    }

    /// Deletes a contact; its activity stays.
    pub fn delete(&mut self, contact: impl ContactKey) {
        let (now, at, moves) = (self.now(), contact.position(self), self.moves.delete);
        let contact = &mut self.contacts[at];
        contact.deleted_at = Some(now.date_naive());
        contact.list_memberships.clear();
        if moves {
            contact.updated_at = now;
        }
    }

    /// Adds a contact and returns its id.
    pub fn add_contact(&mut self) -> Id {
        let now = self.now();
        let id = uuid(&mut self.rng);
        let n = self.contacts.len();
        self.contacts.push(Contact {
            id: id.clone(),
            case: Case::Ordinary,
            email: Some(Email {
                address: format!("new{n}@example.com"),
                permission: "implicit",
                created_at: now,
                updated_at: now,
                opt_in_source: "Account",
                opt_in_date: Some(now - Duration::seconds(1)),
                opt_out_source: None,
                opt_out_date: None,
                opt_out_reason: None,
                confirm_status: "off",
            }),
            first_name: Some("Nina".into()),
            last_name: None,
            job_title: None,
            company_name: None,
            birthday: None,
            anniversary: None,
            create_source: "Account",
            update_source: None,
            created_at: now,
            updated_at: now,
            deleted_at: None,
            custom_fields: vec![],
            phone_numbers: vec![],
            street_addresses: vec![],
            list_memberships: vec![],
            taggings: vec![],
            notes: vec![],
            sms: None,
        });
        id
    }

    /// Adds a contact to a list.
    pub fn add_to_list(&mut self, contact: impl ContactKey, list_id: &str) {
        let (now, at, moves) = (self.now(), contact.position(self), self.moves.lists);
        let contact = &mut self.contacts[at];
        if !contact.list_memberships.iter().any(|l| &**l == list_id) {
            contact.list_memberships.push(list_id.into());
        }
        if moves {
            contact.updated_at = now;
        }
    }

    /// Tags a contact.
    pub fn add_tag(&mut self, contact: impl ContactKey, tag_id: &str) {
        let (now, at, moves) = (self.now(), contact.position(self), self.moves.tags);
        let contact = &mut self.contacts[at];
        if !contact.taggings.iter().any(|t| &**t == tag_id) {
            contact.taggings.push(tag_id.into());
        }
        if moves {
            contact.updated_at = now;
        }
    }

    /// Adds a note to a contact.
    pub fn add_note(&mut self, contact: impl ContactKey, content: &str) {
        let (now, at, moves) = (self.now(), contact.position(self), self.moves.notes);
        let id = uuid(&mut self.rng);
        let contact = &mut self.contacts[at];
        let note = Note { id, created_at: now, content: content.into() };
        contact.notes.insert(0, note);
        if moves {
            contact.updated_at = now;
        }
    }

    /// Withdraws the consent to SMS, if the contact has an SMS channel.
    pub fn sms_opt_out(&mut self, contact: impl ContactKey) {
        let (now, at, moves) = (self.now(), contact.position(self), self.moves.sms);
        let contact = &mut self.contacts[at];
        if let Some(sms) = &mut contact.sms {
            sms.permission = "opt_out";
            sms.opt_out_date = Some(now);
            sms.updated_at = now;
            if moves {
                contact.updated_at = now;
            }
        }
    }
}
