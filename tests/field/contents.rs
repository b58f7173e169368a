//! Faults reported by operators: what a restore point holds, and what it says that it does not hold.

mod outside;
mod pools;
mod remote;
mod shrunk;
mod slices;
mod target;
