//! What the tap does, seen from outside: the real binary against the fake account.

mod merge;
mod mutation;
mod round;
mod tap;

mod about;
mod activity;
mod bad_input;
mod bookmarks;
mod campaigns;
mod checked_in;
mod contacts;
mod definitions;
mod doctor;
mod documents;
mod fault_matrix;
mod fuzz;
#[cfg(unix)]
mod histories;
#[cfg(unix)]
mod interruption;
#[cfg(target_os = "linux")]
mod large;
#[cfg(unix)]
mod login;
mod merging;
mod missing_rows;
mod mistakes;
mod moving;
mod odd;
mod odd_answers;
mod options;
mod plan;
mod prefix;
mod preflight;
#[cfg(unix)]
mod renewals;
#[cfg(unix)]
mod rotation;
mod routes;
mod secrets;
mod selection;
mod smuggling;
mod snapshots;
mod sync;
mod tables;
#[cfg(unix)]
mod terminal;
mod tls;
#[cfg(unix)]
mod tokens;
