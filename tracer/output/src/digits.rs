//! Numbers to digits, without the formatting machinery of the standard library.

/// Appends a number in decimal.
pub(super) fn push_decimal(number: impl itoa::Integer, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// The digits of hexadecimal numbers.
pub(super) const HEX: &[u8; 16] = b"0123456789abcdef";

/// The last `N` digits of a number, zeros included.
pub(super) fn padded<const N: usize>(mut number: u32) -> [u8; N] {
    let mut digits = [b'0'; N];
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
    digits
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Check that padded numbers have all their digits.
    #[test]
    fn padding() {
        assert_eq!(&padded::<9>(6), b"000000006");
        assert_eq!(&padded::<4>(2026), b"2026");
        assert_eq!(&padded::<2>(0), b"00");
    }
}
