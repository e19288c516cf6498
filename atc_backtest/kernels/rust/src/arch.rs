//! All that depends on the processor: vectors of x86-64, and which of them runs here.
//!
//! Values of these types exist only behind `Level::available`, so their instructions are present.

use crate::vector::{Portable, Vector};

/// A way to run the kernel. All give the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    Avx512,
    Avx2,
    Portable,
}

/// A computation written for any vector type.
pub trait Task {
    /// Lanes that there is work for.
    fn width(&self) -> usize;
    fn with<V: Vector>(self);
}

impl Level {
    pub const ALL: [Level; 3] = [Level::Avx512, Level::Avx2, Level::Portable];

    pub fn name(self) -> &'static str {
        match self {
            Level::Avx512 => "avx512",
            Level::Avx2 => "avx2",
            Level::Portable => "portable",
        }
    }

    /// Does this processor have the instructions?
    pub fn available(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vl"),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => is_x86_feature_detected!("avx2"),
            #[cfg(not(target_arch = "x86_64"))]
            Level::Avx512 | Level::Avx2 => false,
            Level::Portable => true,
        }
    }

    /// The level called `name`; `auto` is the first of `ALL` that this processor has.
    pub fn from_name(name: &str) -> Result<Level, String> {
        let mut levels = Self::ALL.into_iter().filter(|level| level.available());
        let found = if name == "auto" { levels.next() } else { levels.find(|level| level.name() == name) };
        found.ok_or_else(|| {
            let here: Vec<_> = Self::ALL.into_iter().filter(|l| l.available()).map(Level::name).collect();
            format!(
                "level = {name:?} is not to be had on this processor: auto, or one of {}.",
                here.join(", ")
            )
        })
    }

    /// Run `task` on this level's vectors, or on portable ones where they are missing.
    pub fn run<T: Task>(self, task: T) {
        match self {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 if self.available() && task.width() <= 4 => task.with::<x86::Avx512Half>(),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 if self.available() => task.with::<x86::Avx512>(),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 if self.available() => task.with::<x86::Avx2>(),
            _ => task.with::<Portable>(),
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use crate::vector::{Pass, Vector};
    use std::arch::x86_64::*;
    use std::ops::{Add, Div, Mul, Sub};

    /// One operation each: `intrinsic(arguments)`, wrapped.
    macro_rules! vector {
        ($name:ident, $register:ty, $mask:ty, $lanes:literal, $feature:literal,
         [$add:ident, $sub:ident, $mul:ident, $div:ident],
         [$max:ident, $min:ident, $splat:ident, $abs:ident, $rint:expr],
         [$compare:ident, $select:ident, $and:ident, $not:ident]) => {
            #[derive(Clone, Copy)]
            #[repr(transparent)]
            pub struct $name($register);

            vector!(@operator $name, Add add $add, Sub sub $sub, Mul mul $mul, Div div $div);

            // SAFETY of every block: the type's contract, its instructions are present.
            impl Vector for $name {
                const LANES: usize = $lanes;
                type Mask = $mask;

                #[inline(always)]
                fn splat(value: f64) -> Self {
                    Self(unsafe { $splat(value) })
                }
                #[inline(always)]
                fn abs(self) -> Self {
                    Self(unsafe { $abs(self.0) })
                }
                #[inline(always)]
                fn rint(self) -> Self {
                    Self(unsafe { $rint(self.0) })
                }
                #[inline(always)]
                fn larger(self, other: Self) -> Self {
                    Self(unsafe { $max(self.0, other.0) })
                }
                #[inline(always)]
                fn smaller(self, other: Self) -> Self {
                    Self(unsafe { $min(self.0, other.0) })
                }
                #[inline(always)]
                fn lt(self, other: Self) -> $mask {
                    unsafe { $compare::<_CMP_LT_OQ>(self.0, other.0) }
                }
                #[inline(always)]
                fn gt(self, other: Self) -> $mask {
                    unsafe { $compare::<_CMP_GT_OQ>(self.0, other.0) }
                }
                #[inline(always)]
                fn ge(self, other: Self) -> $mask {
                    unsafe { $compare::<_CMP_GE_OQ>(self.0, other.0) }
                }
                #[inline(always)]
                fn eq(self, other: Self) -> $mask {
                    unsafe { $compare::<_CMP_EQ_OQ>(self.0, other.0) }
                }
                #[inline(always)]
                fn select(mask: $mask, yes: Self, no: Self) -> Self {
                    Self(unsafe { $select(mask, yes.0, no.0) })
                }
                #[inline(always)]
                fn and(a: $mask, b: $mask) -> $mask {
                    unsafe { $and(a, b) }
                }
                #[inline(always)]
                fn not(a: $mask) -> $mask {
                    unsafe { $not(a) }
                }

                fn enter<P: Pass<Self>>(pass: P) {
                    #[target_feature(enable = $feature)]
                    fn inside<P: Pass<$name>>(pass: P) {
                        pass.run();
                    }
                    // SAFETY: the type's contract.
                    unsafe { inside(pass) }
                }

                fn numbers(vectors: &[Self]) -> &[f64] {
                    // SAFETY: a register is $lanes f64, in order.
                    unsafe { std::slice::from_raw_parts(vectors.as_ptr().cast(), vectors.len() * $lanes) }
                }
                fn numbers_mut(vectors: &mut [Self]) -> &mut [f64] {
                    // SAFETY: as above; any f64 is a valid lane.
                    unsafe { std::slice::from_raw_parts_mut(vectors.as_mut_ptr().cast(), vectors.len() * $lanes) }
                }
            }
        };
        (@operator $name:ident, $($operator:ident $method:ident $intrinsic:ident),*) => {$(
            impl $operator for $name {
                type Output = Self;
                #[inline(always)]
                fn $method(self, other: Self) -> Self {
                    Self(unsafe { $intrinsic(self.0, other.0) })
                }
            }
        )*};
    }

    // What the two instruction sets do not offer under like names.

    #[inline(always)]
    unsafe fn select_512(mask: __mmask8, yes: __m512d, no: __m512d) -> __m512d {
        unsafe { _mm512_mask_blend_pd(mask, no, yes) }
    }
    #[inline(always)]
    unsafe fn and_8(a: __mmask8, b: __mmask8) -> __mmask8 {
        a & b
    }
    #[inline(always)]
    unsafe fn not_8(a: __mmask8) -> __mmask8 {
        !a
    }
    #[inline(always)]
    unsafe fn select_half(mask: __mmask8, yes: __m256d, no: __m256d) -> __m256d {
        unsafe { _mm256_mask_blend_pd(mask, no, yes) }
    }
    #[inline(always)]
    unsafe fn select_256(mask: __m256d, yes: __m256d, no: __m256d) -> __m256d {
        unsafe { _mm256_blendv_pd(no, yes, mask) }
    }
    #[inline(always)]
    unsafe fn abs_256(a: __m256d) -> __m256d {
        unsafe { _mm256_andnot_pd(_mm256_set1_pd(-0.0), a) }
    }
    #[inline(always)]
    unsafe fn not_256(a: __m256d) -> __m256d {
        unsafe { _mm256_xor_pd(a, _mm256_castsi256_pd(_mm256_set1_epi64x(-1))) }
    }

    const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;

    vector!(
        Avx512,
        __m512d,
        __mmask8,
        8,
        "avx512f",
        [_mm512_add_pd, _mm512_sub_pd, _mm512_mul_pd, _mm512_div_pd],
        [_mm512_max_pd, _mm512_min_pd, _mm512_set1_pd, _mm512_abs_pd, _mm512_roundscale_pd::<NEAREST>],
        [_mm512_cmp_pd_mask, select_512, and_8, not_8]
    );
    // Few symbols: shorter vectors with the same many registers and masks, which cost less each.
    vector!(
        Avx512Half,
        __m256d,
        __mmask8,
        4,
        "avx512f,avx512vl",
        [_mm256_add_pd, _mm256_sub_pd, _mm256_mul_pd, _mm256_div_pd],
        [_mm256_max_pd, _mm256_min_pd, _mm256_set1_pd, abs_256, _mm256_roundscale_pd::<NEAREST>],
        [_mm256_cmp_pd_mask, select_half, and_8, not_8]
    );
    vector!(
        Avx2,
        __m256d,
        __m256d,
        4,
        "avx2",
        [_mm256_add_pd, _mm256_sub_pd, _mm256_mul_pd, _mm256_div_pd],
        [_mm256_max_pd, _mm256_min_pd, _mm256_set1_pd, abs_256, _mm256_round_pd::<NEAREST>],
        [_mm256_cmp_pd, select_256, _mm256_and_pd, not_256]
    );
}
