//! Tests restore points in repositories with Debian's restic.

mod crash;
mod damage;
mod points;
mod scene;
mod together;
