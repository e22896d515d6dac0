//! What the tap does, seen from outside: the real binary against the fake account.

mod round;
mod tap;

mod about;
mod bad_input;
mod checked_in;
mod documents;
mod fault_matrix;
#[cfg(unix)]
mod interruption;
#[cfg(target_os = "linux")]
mod large;
#[cfg(unix)]
mod login;
mod moving;
mod options;
mod prefix;
mod preflight;
#[cfg(unix)]
mod rotation;
mod routes;
mod secrets;
mod snapshots;
mod sync;
#[cfg(unix)]
mod terminal;
mod tls;
#[cfg(unix)]
mod tokens;
