//! Owns: the command line, and all that is printed. Must not: decide how a backup or a restore is done.

pub mod args;
