//! The program: nothing but a call of the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(kvmbackup::cli::main())
}
