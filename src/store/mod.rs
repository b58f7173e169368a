//! Owns: where restore points live: names, partial files, listing, deletion. Must not: look into archives.
