//! Settings as plain numbers: of a stream (what decides the averages) and of its members.
//!
//! Constants are rounded by the caller, once for all backends; here they are only put in order.

use std::borrow::Cow;

pub const FAMILIES: usize = 6;
pub const LENGTHS: usize = 9;
pub const AVERAGES: usize = FAMILIES * LENGTHS;
/// Per configuration and symbol: layer-1 equities, layer-2 equities, layer-1 signals q.
pub const EQUITY_SLOTS: usize = AVERAGES + 2 * FAMILIES;

pub const EMA: usize = 0;
pub const HMA: usize = 1;
pub const WMA: usize = 2;
pub const DEMA: usize = 3;
pub const LSMA: usize = 4;
pub const KAMA: usize = 5;

/// Offsets of the lengths around L0, by robustness: narrow, medium, wide.
pub const OFFSETS: [[usize; 4]; 3] = [[1, 2, 3, 4], [1, 2, 4, 6], [1, 3, 5, 7]];

/// The nine lengths by size, as indices into the summing order (L0, +o ascending, -o ascending).
pub const ASCENDING: [usize; LENGTHS] = [8, 7, 6, 5, 0, 1, 2, 3, 4];

/// How much longer than the shortest the k-th length by size is.
pub const fn beyond_shortest(robustness: usize, k: usize) -> usize {
    let offsets = OFFSETS[robustness];
    match k {
        0..4 => offsets[3] - offsets[3 - k],
        4 => offsets[3],
        _ => offsets[3] + offsets[k - 5],
    }
}

/// By how much the longest length exceeds the shortest.
pub const fn span(robustness: usize) -> usize {
    2 * OFFSETS[robustness][3]
}

/// A value per family and length, in summing order.
pub type Table<T> = [[T; LENGTHS]; FAMILIES];

/// What decides averages and signs. Fields as in `lowering.StreamConstants` and `StreamLayout`.
#[derive(Clone, Debug)]
pub struct Stream {
    pub lengths: Table<usize>,
    pub first: Table<f64>,
    pub pine: bool,
    pub history: usize,
    pub smooth: [usize; LENGTHS],
    pub alpha: Table<f64>,
    pub sma: Table<f64>,
    pub wma: Table<f64>,
    pub lsma_w: Table<f64>,
    pub lsma_s: Table<f64>,
    pub half: [usize; LENGTHS],
    pub hma_half: [f64; LENGTHS],
    pub hma_smooth: [f64; LENGTHS],
}

impl Stream {
    /// 0 narrow, 1 medium, 2 wide; an error where the lengths are none of the three.
    pub fn check(&self) -> Result<usize, String> {
        let robustness = (0..OFFSETS.len()).find(|&r| self.has_offsets(r)).ok_or_else(|| {
            format!(
                "lengths = {:?} are not those of any robustness: pass StreamLayout.lengths.",
                self.lengths
            )
        })?;
        let longest = self.lengths.iter().flatten().max();
        if longest != Some(&self.history) {
            return Err(format!("history = {} must be the longest length, {longest:?}.", self.history));
        }
        for (j, &smooth) in self.smooth.iter().enumerate() {
            if smooth < 1 || smooth > self.lengths[HMA][j] || self.half[j] != self.lengths[HMA][j] / 2 {
                return Err(format!(
                    "smooth = {:?}, half = {:?} do not fit the HMA lengths.",
                    self.smooth, self.half
                ));
            }
        }
        Ok(robustness)
    }

    fn has_offsets(&self, robustness: usize) -> bool {
        self.lengths.iter().all(|lengths| {
            lengths[8] >= 2
                && (0..LENGTHS).all(|k| lengths[ASCENDING[k]] == lengths[8] + beyond_shortest(robustness, k))
        })
    }

    pub fn shortest(&self, family: usize) -> usize {
        self.lengths[family][ASCENDING[0]]
    }

    pub fn y_slots(&self) -> usize {
        self.smooth.iter().map(|w| w - 1).sum()
    }
    pub fn recursive_slot(&self) -> usize {
        1 + self.history + self.y_slots()
    }
    pub fn side_slot(&self) -> usize {
        self.recursive_slot() + 4 * LENGTHS
    }
    pub fn sign_slot(&self) -> usize {
        self.side_slot() + AVERAGES
    }
    /// Rows of the stream's state.
    pub fn width(&self) -> usize {
        self.sign_slot() + AVERAGES
    }
}

/// One configuration of a stream. Fields as in `lowering.MemberConstants`.
#[derive(Clone, Debug)]
pub struct Member<'a> {
    /// Index in the state's equities and in the outputs.
    pub config: usize,
    /// Which of the stream's distinct layers 1 is its own, numbered as members first have them: members
    /// that differ in thresholds and weights alone share one.
    pub layer1: usize,
    pub cutout: i64,
    pub keep: f64,
    pub weights: [f64; FAMILIES],
    /// A layer-1 signal votes +1 iff q > up, -1 iff q < down.
    pub up: f64,
    pub down: f64,
    /// g at k bars after the cutout is `growth[k - growth_start]`, or its last value.
    pub growth_start: i64,
    pub growth: Cow<'a, [f64]>,
}

impl Member<'_> {
    /// The same with a growth table of its own.
    pub fn into_owned(self) -> Member<'static> {
        Member { growth: Cow::Owned(self.growth.into_owned()), ..self }
    }

    /// g of bar number `t`; before the cutout any value will do.
    pub fn growth_at(&self, t: i64) -> f64 {
        let k = usize::try_from(t - self.cutout - self.growth_start).unwrap_or(0);
        self.growth[k.min(self.growth.len() - 1)]
    }
}
