//! What the tap does, seen from outside: the real binary against the fake account.

mod round;
mod tap;

mod about;
mod bad_input;
mod bookmarks;
mod campaigns;
mod checked_in;
mod contacts;
mod definitions;
mod doctor;
mod documents;
mod fault_matrix;
#[cfg(unix)]
mod histories;
#[cfg(unix)]
mod interruption;
#[cfg(target_os = "linux")]
mod large;
#[cfg(unix)]
mod login;
mod merging;
mod mistakes;
mod moving;
mod odd;
mod odd_answers;
mod options;
mod prefix;
mod preflight;
#[cfg(unix)]
mod rotation;
mod routes;
mod secrets;
mod selection;
mod snapshots;
mod sync;
mod tls;
#[cfg(unix)]
mod tokens;
