//! Faults of the capture of a guest: changes during it, what it waits for, and the states of the guest.

mod changes;
mod frozen;
mod places;
mod states;
