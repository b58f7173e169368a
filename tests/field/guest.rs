//! Faults of the capture of a guest: what changes under it, what it waits for, and the states it meets.

mod changes;
mod frozen;
mod places;
mod states;
