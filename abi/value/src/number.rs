//! Half-precision floats, and the question which size of float keeps a value.

/// The bits of the one NaN of the encoding, as a half-precision float.
pub(crate) const NAN_HALF: u16 = 0x7e00;

/// A float in the shortest form that keeps its value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Shortest {
    Half(u16),
    Single(u32),
    Double(u64),
}

/// The shortest form of a float (IEEE 754 binary16, binary32 or binary64).
pub(crate) fn shortest(value: f64) -> Shortest {
    if value.is_nan() {
        return Shortest::Half(NAN_HALF);
    }
    let single = value as f32;
    if f64::from(single).to_bits() != value.to_bits() {
        return Shortest::Double(value.to_bits());
    }
    match half_bits(single) {
        Some(half) => Shortest::Half(half),
        None => Shortest::Single(single.to_bits()),
    }
}

/// The half-precision bits of a float that is not NaN, if half precision keeps its value.
fn half_bits(value: f32) -> Option<u16> {
    let bits = value.to_bits();
    let sign = (bits >> 16) as u16 & 0x8000;
    let exponent = (bits >> 23 & 0xff) as i32 - 127;
    let mantissa = bits & 0x007f_ffff;
    match exponent {
        -127 if mantissa == 0 => Some(sign),
        128 => Some(sign | 0x7c00),
        -14..=15 if mantissa.trailing_zeros() >= 13 => {
            Some(sign | ((exponent + 15) as u16) << 10 | (mantissa >> 13) as u16)
        }
        // Subnormal halves: the mantissa with its leading one, shifted to units of 2^-24.
        -24..=-15 => {
            let significand = mantissa | 0x0080_0000;
            let shift = (-1 - exponent) as u32;
            (significand.trailing_zeros() >= shift).then(|| sign | (significand >> shift) as u16)
        }
        _ => None,
    }
}

/// The value of a half-precision float.
pub(crate) fn half_to_f64(bits: u16) -> f64 {
    let sign = if bits & 0x8000 == 0 { 1.0 } else { -1.0 };
    let exponent = i32::from(bits >> 10 & 0x1f);
    let mantissa = f64::from(bits & 0x03ff);
    match exponent {
        0 => sign * mantissa * 2f64.powi(-24),
        31 if mantissa == 0.0 => sign * f64::INFINITY,
        31 => f64::NAN,
        _ => sign * (1024.0 + mantissa) * 2f64.powi(exponent - 25),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_comes_back() {
        for bits in 0..=u16::MAX {
            let value = half_to_f64(bits);
            if value.is_nan() {
                assert_eq!(shortest(value), Shortest::Half(NAN_HALF));
            } else {
                assert_eq!(shortest(value), Shortest::Half(bits), "{value}");
            }
        }
    }

    #[test]
    fn what_lies_between_halves_needs_more() {
        for bits in 0..0x7bffu16 {
            let between = (half_to_f64(bits) + half_to_f64(bits + 1)) / 2.0;
            assert_eq!(shortest(between), Shortest::Single((between as f32).to_bits()), "{between}");
        }
        assert_eq!(shortest(65536.0), Shortest::Single(0x4780_0000));
        assert_eq!(shortest(1.1), Shortest::Double(0x3ff1_9999_9999_999a));
        assert_eq!(shortest(f64::from_bits(1)), Shortest::Double(1));
    }
}
