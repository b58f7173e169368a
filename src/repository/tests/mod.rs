//! Restore points in repositories, checked with Debian's restic.

mod crash;
mod damage;
mod points;
mod scene;
mod together;
