//! A vector of float64 lanes: what the algorithm is written in, and its portable form.
//!
//! A lane is a symbol. Every operation is IEEE, lane by lane, so results do not depend on the type
//! chosen. There is no fused multiply-add here, on purpose: with it, bits would.

use std::array;
use std::ops::{Add, Div, Mul, Sub};

/// `LANES` float64 values, operated on side by side.
pub trait Vector:
    Copy
    + Send
    + Sync
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + 'static
{
    const LANES: usize;
    type Mask: Copy;

    fn splat(value: f64) -> Self;
    fn abs(self) -> Self;
    /// To the nearest integer, ties to even, for magnitudes below 2^51; a zero keeps its sign.
    fn rint(self) -> Self;
    /// `self > other ? self : other`: `other` where either is NaN.
    fn larger(self, other: Self) -> Self;
    /// `self < other ? self : other`: `other` where either is NaN.
    fn smaller(self, other: Self) -> Self;
    /// Comparisons are false where either side is NaN.
    fn lt(self, other: Self) -> Self::Mask;
    fn gt(self, other: Self) -> Self::Mask;
    fn ge(self, other: Self) -> Self::Mask;
    fn eq(self, other: Self) -> Self::Mask;
    /// `mask ? yes : no`.
    fn select(mask: Self::Mask, yes: Self, no: Self) -> Self;
    fn and(a: Self::Mask, b: Self::Mask) -> Self::Mask;
    fn not(a: Self::Mask) -> Self::Mask;

    /// Run `pass` compiled for the instructions of this type.
    fn enter<P: Pass<Self>>(pass: P);

    /// The same memory as plain numbers, `LANES` for each vector.
    fn numbers(vectors: &[Self]) -> &[f64];
    fn numbers_mut(vectors: &mut [Self]) -> &mut [f64];
}

/// A loop over bars. `run` and all it calls must be `#[inline(always)]`: only what is inlined into
/// `Vector::enter` is compiled for the vector's instructions.
pub trait Pass<V: Vector> {
    fn run(self);
}

/// Lanes in plain Rust, for any processor; the yardstick of the other forms.
#[derive(Clone, Copy)]
#[repr(C, align(16))]
pub struct Portable([f64; Portable::WIDTH]);

impl Portable {
    const WIDTH: usize = 2;

    #[inline(always)]
    fn zip(self, other: Self, f: impl Fn(f64, f64) -> f64) -> Self {
        Self(array::from_fn(|i| f(self.0[i], other.0[i])))
    }

    #[inline(always)]
    fn compare(self, other: Self, f: impl Fn(f64, f64) -> bool) -> [u64; Portable::WIDTH] {
        array::from_fn(|i| if f(self.0[i], other.0[i]) { u64::MAX } else { 0 })
    }
}

macro_rules! lanewise {
    ($($operator:ident $method:ident $symbol:tt),*) => {$(
        impl $operator for Portable {
            type Output = Self;
            #[inline(always)]
            fn $method(self, other: Self) -> Self {
                self.zip(other, |a, b| a $symbol b)
            }
        }
    )*};
}
lanewise!(Add add +, Sub sub -, Mul mul *, Div div /);

impl Vector for Portable {
    const LANES: usize = Self::WIDTH;
    type Mask = [u64; Portable::WIDTH];

    #[inline(always)]
    fn splat(value: f64) -> Self {
        Self([value; Self::WIDTH])
    }
    #[inline(always)]
    fn abs(self) -> Self {
        self.zip(self, |a, _| a.abs())
    }
    #[inline(always)]
    fn rint(self) -> Self {
        const INTEGERS_ONLY: f64 = 4503599627370496.0; // 2^52
        self.zip(self, |a, _| ((a.abs() + INTEGERS_ONLY) - INTEGERS_ONLY).copysign(a))
    }
    #[inline(always)]
    fn larger(self, other: Self) -> Self {
        self.zip(other, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn smaller(self, other: Self) -> Self {
        self.zip(other, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    fn lt(self, other: Self) -> Self::Mask {
        self.compare(other, |a, b| a < b)
    }
    #[inline(always)]
    fn gt(self, other: Self) -> Self::Mask {
        self.compare(other, |a, b| a > b)
    }
    #[inline(always)]
    fn ge(self, other: Self) -> Self::Mask {
        self.compare(other, |a, b| a >= b)
    }
    #[inline(always)]
    fn eq(self, other: Self) -> Self::Mask {
        self.compare(other, |a, b| a == b)
    }
    #[inline(always)]
    fn select(mask: Self::Mask, yes: Self, no: Self) -> Self {
        let bits = |i: usize| (yes.0[i].to_bits() & mask[i]) | (no.0[i].to_bits() & !mask[i]);
        Self(array::from_fn(|i| f64::from_bits(bits(i))))
    }
    #[inline(always)]
    fn and(a: Self::Mask, b: Self::Mask) -> Self::Mask {
        array::from_fn(|i| a[i] & b[i])
    }
    #[inline(always)]
    fn not(a: Self::Mask) -> Self::Mask {
        a.map(|bits| !bits)
    }

    fn enter<P: Pass<Self>>(pass: P) {
        pass.run();
    }

    fn numbers(vectors: &[Self]) -> &[f64] {
        // SAFETY: repr(C) over WIDTH f64 without padding.
        unsafe { std::slice::from_raw_parts(vectors.as_ptr().cast(), vectors.len() * Self::LANES) }
    }
    fn numbers_mut(vectors: &mut [Self]) -> &mut [f64] {
        // SAFETY: as above; any f64 is a valid lane.
        unsafe { std::slice::from_raw_parts_mut(vectors.as_mut_ptr().cast(), vectors.len() * Self::LANES) }
    }
}
