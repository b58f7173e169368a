//! Chooses the polynomial by which restic's own backups cut files. Must not cut files: disks are cut into blobs of a
//! fixed size.
//!
//! restic refuses a repository without an irreducible polynomial of degree 53.

use std::io;

use super::crypto::random;

const DEGREE: u32 = 53;

/// A random irreducible polynomial.
pub fn choose() -> io::Result<u64> {
    loop {
        let mut bytes = [0; 8];
        random(&mut bytes)?;
        // Sets the degree, and excludes multiples of x.
        let polynomial = u64::from_ne_bytes(bytes) & ((1 << DEGREE) - 1) | 1 << DEGREE | 1;
        if is_irreducible(polynomial) {
            return Ok(polynomial);
        }
    }
}

/// Ben-Or's test: no factor has a degree up to half of that of the polynomial.
fn is_irreducible(polynomial: u64) -> bool {
    let mut power = 2;
    (1..=degree(polynomial) / 2).all(|_| {
        power = remainder(square(power), polynomial);
        divisor(polynomial, power ^ 2) == 1
    })
}

fn degree(polynomial: u64) -> u32 {
    polynomial.checked_ilog2().unwrap_or(0)
}

/// Spreads the bits, because (a + b)² = a² + b² in GF(2).
fn square(polynomial: u64) -> u128 {
    (0..64).filter(|bit| polynomial >> bit & 1 == 1).fold(0, |sum, bit| sum | 1_u128 << (2 * bit))
}

fn remainder(mut dividend: u128, by: u64) -> u64 {
    while dividend != 0 && dividend.ilog2() >= degree(by) {
        dividend ^= u128::from(by) << (dividend.ilog2() - degree(by));
    }
    dividend as u64
}

fn divisor(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, remainder(u128::from(a), b));
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn polynomials_of_restic_are_irreducible_and_products_are_not() {
        assert!(is_irreducible(0x34_23c1_6de9_1d2d) && is_irreducible(0b111) && is_irreducible(0b1011));
        assert!(!is_irreducible(0b101) && !is_irreducible(0b1001) && !is_irreducible(0x34_23c1_6de9_1d2d ^ 6));
        let chosen = choose().unwrap();
        assert!(degree(chosen) == DEGREE && is_irreducible(chosen));
    }
}
