//! The signal of an average: which side of the close it is on, and where it crosses.

use crate::stream::LENGTHS;
use crate::vector::Vector;

/// Forms of a pass over averages. `GENERAL`: averages may be undefined, signals may be 0, averages are kept.
/// `SETTLED`: every lane's signals are 1 or -1 and all its averages are defined: then a signal is simply
/// the last side taken, for having crossed once, an average's side and its signal can no longer differ.
/// `SETTLED_SIDES`: the same, and the last bar's sides are left as the general form leaves them.
pub const GENERAL: u8 = 0;
pub const SETTLED: u8 = 1;
pub const SETTLED_SIDES: u8 = 2;

const ABOVE: f64 = 1.0 - 1e-12;
const BELOW: f64 = 1.0 + 1e-12;

/// The edges of the band around `close`: an average below the first is above-signalled, and so on.
#[inline(always)]
pub fn band<V: Vector>(close: V) -> (V, V) {
    (close * V::splat(ABOVE), close * V::splat(BELOW))
}

/// One family's signals over a tile of bars, and what its averages leave behind.
pub struct Crossing<'a, V> {
    /// Per bar of the tile: the band around its close.
    pub low: &'a [V],
    pub high: &'a [V],
    /// Bar number of the tile's first bar, and of each average's first defined bar.
    pub t: V,
    pub first: &'a [f64; LENGTHS],
    /// Side of each average at the last bar: 1 above, -1 below, 0 equal or undefined.
    pub side: &'a mut [V; LENGTHS],
    /// [1 + bar]: signals after the bar; row 0 before the tile.
    pub signs: &'a mut [[V; LENGTHS]],
    /// [bar]: the averages, NaN where undefined; written by the general form only.
    pub averages: &'a mut [[V; LENGTHS]],
}

/// A bar's inputs to `Signs::cross`.
#[derive(Clone, Copy)]
pub struct Edge<V> {
    low: V,
    high: V,
    t: V,
}

/// The running values of a `Crossing`, in registers while a loop over bars runs.
pub struct Signs<'a, V, const FORM: u8> {
    s: [V; LENGTHS],
    side: [V; LENGTHS],
    of: Crossing<'a, V>,
}

impl<'a, V: Vector, const FORM: u8> Signs<'a, V, FORM> {
    #[inline(always)]
    pub fn begin(of: Crossing<'a, V>) -> Self {
        let n = of.low.len();
        assert!(of.high.len() == n && of.signs.len() > n);
        assert!(FORM != GENERAL || of.averages.len() >= n);
        Self { s: of.signs[0], side: *of.side, of }
    }

    #[inline(always)]
    pub fn bars(&self) -> usize {
        self.of.low.len()
    }

    #[inline(always)]
    pub fn edge(&self, bar: usize) -> Edge<V> {
        let t = if FORM == GENERAL { self.of.t + V::splat(bar as f64) } else { self.of.t };
        Edge { low: self.of.low[bar], high: self.of.high[bar], t }
    }

    /// Whether this is average j's first defined bar, and whether it comes later.
    #[inline(always)]
    pub fn since_first(&self, edge: &Edge<V>, j: usize) -> (V::Mask, V::Mask) {
        let first = V::splat(self.of.first[j]);
        (edge.t.eq(first), edge.t.gt(first))
    }

    /// Take average j's value at a bar.
    #[inline(always)]
    pub fn cross(&mut self, edge: &Edge<V>, bar: usize, j: usize, average: V) {
        let (above, below) = (average.lt(edge.low), average.gt(edge.high));
        let (up, down) = (V::splat(1.0), V::splat(-1.0));
        let zero = V::splat(0.0);
        if FORM == SETTLED_SIDES {
            self.side[j] = V::select(above, up, V::select(below, down, zero));
        }
        if FORM != GENERAL {
            self.s[j] = V::select(above, up, V::select(below, down, self.s[j]));
            return;
        }
        let first = V::splat(self.of.first[j]);
        let defined = edge.t.ge(first);
        let side = V::select(above, up, V::select(below, down, zero));
        let side = V::select(defined, side, zero);
        let moved = V::and(V::not(side.eq(self.side[j])), V::not(side.eq(zero)));
        self.s[j] = V::select(V::and(moved, edge.t.gt(first)), side, self.s[j]);
        self.side[j] = side;
        self.of.averages[bar][j] = V::select(defined, average, V::splat(f64::NAN));
    }

    #[inline(always)]
    pub fn end_bar(&mut self, bar: usize) {
        self.of.signs[bar + 1] = self.s;
    }

    /// Hand back the sides. `SETTLED` did not follow them: with 0, the next bar's side counts as taken
    /// anew, which is what a nonzero signal asks for.
    #[inline(always)]
    pub fn end(self) {
        *self.of.side = if FORM == SETTLED { [V::splat(0.0); LENGTHS] } else { self.side };
    }
}
