//! The binary. Must not contain logic: everything is in the library.

fn main() {
    kvmbackup::cli::main()
}
