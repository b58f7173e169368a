//! Archives as a whole, against tar, zstd, gzip, pigz and sha256sum, and against damage.
