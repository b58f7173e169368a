//! Faults reported by operators: what a restore point contains, and what it reports as missing.

mod outside;
mod pools;
mod remote;
mod shrunk;
mod slices;
mod target;
