//! The program: nothing but a call of the library.

fn main() {
    kvmbackup::cli::main()
}
