//! Pass 1: the six families' averages, each straight into its signals; nothing is stored between.
//!
//! A pass is one loop over bars with its nine lengths unrolled. Longer windows grow out of the
//! shortest one by a step per bar of length.

use crate::signs::{Crossing, GENERAL, Signs};
use crate::stream::{ASCENDING, LENGTHS, beyond_shortest, span};
use crate::vector::{Pass, Vector};

/// The body once for each of the nine lengths, with `$k` a constant.
macro_rules! nine_times {
    ($k:ident => $body:block) => {
        nine_times!(@ $k $body 0 1 2 3 4 5 6 7 8)
    };
    (@ $k:ident $body:block $($value:literal)*) => {
        $({
            #[allow(dead_code)]
            const $k: usize = $value;
            $body
        })*
    };
}
pub(crate) use nine_times;

type Nine<T> = [T; LENGTHS];

/// EMA: E + alpha*(x - E), seeded where its window is first full (enhance) or with x[0] (pine).
pub struct Ema<'a, V, const ROBUSTNESS: usize, const FORM: u8> {
    pub crossing: Crossing<'a, V>,
    pub x: Rows<'a, V>,
    pub alpha: &'a Nine<f64>,
    pub seed: Seed<'a, V>,
    pub e: &'a mut Nine<V>,
}

/// DEMA: 2*E1 - E2, E2 the EMA of E1, seeded with it.
pub struct Dema<'a, V, const ROBUSTNESS: usize, const FORM: u8> {
    pub crossing: Crossing<'a, V>,
    pub x: Rows<'a, V>,
    pub alpha: &'a Nine<f64>,
    pub seed: Seed<'a, V>,
    pub e1: &'a mut Nine<V>,
    pub e2: &'a mut Nine<V>,
}

/// Values before and in the tile: bar b's is at `first + b`.
#[derive(Clone, Copy)]
pub struct Rows<'a, V> {
    pub rows: &'a [V],
    pub first: usize,
}

impl<'a, V: Copy> Rows<'a, V> {
    #[inline(always)]
    fn at(&self, bar: usize) -> V {
        self.rows[self.first + bar]
    }

    /// The `n` values from `lag` bars before `bar` back, oldest first.
    #[inline(always)]
    fn back(&self, bar: usize, lag: usize, n: usize) -> &'a [V] {
        let stop = self.first + bar - lag + 1;
        &self.rows[stop - n..stop]
    }
}

/// What an EMA starts from: the SMA of its length, from the sums `s` of the family's shortest window.
#[derive(Clone, Copy)]
pub struct Seed<'a, V> {
    pub pine: bool,
    pub shortest: usize,
    pub s: &'a [V],
    pub sma: &'a Nine<f64>,
}

impl<V: Vector> Seed<'_, V> {
    #[inline(always)]
    fn nine<const ROBUSTNESS: usize>(&self, x: &Rows<V>, bar: usize) -> Nine<V> {
        let mut seeds = [x.at(bar); LENGTHS];
        if !self.pine {
            let older = x.back(bar, self.shortest, span(ROBUSTNESS));
            let mut s = self.s[bar];
            nine_times!(K => {
                s = longer::<V, ROBUSTNESS, K>(s, older);
                seeds[ASCENDING[K]] = s * V::splat(self.sma[ASCENDING[K]]);
            });
        }
        seeds
    }
}

/// S of the k-th length by size from S of the one before; `older`: values beyond the shortest.
#[inline(always)]
fn longer<V: Vector, const ROBUSTNESS: usize, const K: usize>(mut s: V, older: &[V]) -> V {
    let newest = const { span(ROBUSTNESS) } - 1;
    for step in const { before::<K>(ROBUSTNESS) }..const { beyond_shortest(ROBUSTNESS, K) } {
        s = s + older[newest - step];
    }
    s
}

/// The same for S and W.
#[inline(always)]
fn longer_weighted<V: Vector, const ROBUSTNESS: usize, const K: usize>(s: &mut V, w: &mut V, older: &[V]) {
    let newest = const { span(ROBUSTNESS) } - 1;
    for step in const { before::<K>(ROBUSTNESS) }..const { beyond_shortest(ROBUSTNESS, K) } {
        *s = *s + older[newest - step];
        *w = *w + *s;
    }
}

const fn before<const K: usize>(robustness: usize) -> usize {
    if K == 0 { 0 } else { beyond_shortest(robustness, K - 1) }
}

impl<V: Vector, const ROBUSTNESS: usize, const FORM: u8> Pass<V> for Ema<'_, V, ROBUSTNESS, FORM> {
    #[inline(always)]
    fn run(self) {
        let mut e = *self.e;
        let mut signs = Signs::<V, FORM>::begin(self.crossing);
        for bar in 0..signs.bars() {
            let (edge, x) = (signs.edge(bar), self.x.at(bar));
            let seeds = if FORM == GENERAL { self.seed.nine::<ROBUSTNESS>(&self.x, bar) } else { e };
            nine_times!(J => {
                let next = e[J] + V::splat(self.alpha[J]) * (x - e[J]);
                e[J] = if FORM == GENERAL {
                    let (starts, goes_on) = signs.since_first(&edge, J);
                    V::select(goes_on, next, V::select(starts, seeds[J], e[J]))
                } else {
                    next
                };
                signs.cross(&edge, bar, J, e[J]);
            });
            signs.end_bar(bar);
        }
        signs.end();
        *self.e = e;
    }
}

impl<V: Vector, const ROBUSTNESS: usize, const FORM: u8> Pass<V> for Dema<'_, V, ROBUSTNESS, FORM> {
    #[inline(always)]
    fn run(self) {
        let (mut e1, mut e2) = (*self.e1, *self.e2);
        let two = V::splat(2.0);
        let mut signs = Signs::<V, FORM>::begin(self.crossing);
        for bar in 0..signs.bars() {
            let (edge, x) = (signs.edge(bar), self.x.at(bar));
            let seeds = if FORM == GENERAL { self.seed.nine::<ROBUSTNESS>(&self.x, bar) } else { e1 };
            nine_times!(J => {
                let alpha = V::splat(self.alpha[J]);
                let mut first = e1[J] + alpha * (x - e1[J]);
                let mut second = e2[J] + alpha * (first - e2[J]);
                if FORM == GENERAL {
                    let (starts, goes_on) = signs.since_first(&edge, J);
                    first = V::select(goes_on, first, V::select(starts, seeds[J], e1[J]));
                    second = V::select(goes_on, second, V::select(starts, seeds[J], e2[J]));
                }
                (e1[J], e2[J]) = (first, second);
                signs.cross(&edge, bar, J, two * first - second);
            });
            signs.end_bar(bar);
        }
        signs.end();
        (*self.e1, *self.e2) = (e1, e2);
    }
}

/// What a `Windowed` pass makes of S and W.
pub const SMA: u8 = 0;
pub const WMA: u8 = 1;
pub const LSMA: u8 = 2;

/// SMA = S * by_s; WMA = W * by_w; LSMA = W * by_w - S * by_s.
pub struct Windowed<'a, V, const KIND: u8, const ROBUSTNESS: usize, const FORM: u8> {
    pub crossing: Crossing<'a, V>,
    pub x: Rows<'a, V>,
    pub shortest: usize,
    /// Sums of the shortest window.
    pub s: &'a [V],
    pub w: &'a [V],
    pub by_s: &'a Nine<f64>,
    pub by_w: &'a Nine<f64>,
}

impl<V: Vector, const KIND: u8, const ROBUSTNESS: usize, const FORM: u8> Pass<V>
    for Windowed<'_, V, KIND, ROBUSTNESS, FORM>
{
    #[inline(always)]
    fn run(self) {
        let mut signs = Signs::<V, FORM>::begin(self.crossing);
        for bar in 0..signs.bars() {
            let edge = signs.edge(bar);
            let older = self.x.back(bar, self.shortest, span(ROBUSTNESS));
            let (mut s, mut w) = (self.s[bar], self.w[bar]);
            nine_times!(K => {
                let j = const { ASCENDING[K] };
                longer_weighted::<V, ROBUSTNESS, K>(&mut s, &mut w, older);
                let by_s = s * V::splat(self.by_s[j]);
                let by_w = w * V::splat(self.by_w[j]);
                signs.cross(&edge, bar, j, match KIND {
                    SMA => by_s,
                    WMA => by_w,
                    _ => by_w - by_s,
                });
            });
            signs.end_bar(bar);
        }
        signs.end();
    }
}

/// HMA (enhance): y = 2*WMA_h - WMA_L per bar, then the WMA of its last w values.
/// `ODD`: the shortest length is odd, which decides how its halves step.
pub struct Hma<'a, V, const ODD: usize, const ROBUSTNESS: usize, const FORM: u8> {
    pub crossing: Crossing<'a, V>,
    pub x: Rows<'a, V>,
    pub shortest: usize,
    pub s: &'a [V],
    pub w: &'a [V],
    pub halves: Halves<'a, V>,
    pub by_full: &'a Nine<f64>,
    pub by_smooth: &'a Nine<f64>,
    pub smooth: &'a Nine<usize>,
    /// y by bar; bar b's is at row `y_first + b`.
    pub y: &'a mut [Nine<V>],
    pub y_first: usize,
}

/// Sums of the shortest half window, and what each half's W is multiplied with.
#[derive(Clone, Copy)]
pub struct Halves<'a, V> {
    pub s: &'a [V],
    pub w: &'a [V],
    pub by: &'a Nine<f64>,
}

/// How much longer than the shortest half the k-th half is.
const fn half_beyond<const ODD: usize>(robustness: usize, k: usize) -> usize {
    (beyond_shortest(robustness, k) + ODD) / 2
}

impl<V: Vector, const ODD: usize, const ROBUSTNESS: usize, const FORM: u8> Pass<V>
    for Hma<'_, V, ODD, ROBUSTNESS, FORM>
{
    #[inline(always)]
    fn run(self) {
        let mut signs = Signs::<V, FORM>::begin(self.crossing);
        for bar in 0..signs.bars() {
            let edge = signs.edge(bar);
            let older = self.x.back(bar, self.shortest, span(ROBUSTNESS));
            let (mut s, mut w) = (self.s[bar], self.w[bar]);
            let reach = const { half_beyond::<ODD>(ROBUSTNESS, LENGTHS - 1) };
            let half_older = self.x.back(bar, self.shortest / 2, reach);
            let (mut hs, mut hw) = (self.halves.s[bar], self.halves.w[bar]);
            let now = self.y_first + bar;
            nine_times!(K => {
                let j = const { ASCENDING[K] };
                longer_weighted::<V, ROBUSTNESS, K>(&mut s, &mut w, older);
                let shorter = const { if K == 0 { 0 } else { half_beyond::<ODD>(ROBUSTNESS, K - 1) } };
                for step in shorter..const { half_beyond::<ODD>(ROBUSTNESS, K) } {
                    hs = hs + half_older[reach - 1 - step];
                    hw = hw + hs;
                }
                self.y[now][j] = hw * V::splat(self.halves.by[j]) - w * V::splat(self.by_full[j]);
                if K % 3 == 2 {
                    let three = const { [ASCENDING[K / 3 * 3], ASCENDING[K / 3 * 3 + 1], ASCENDING[K]] };
                    let smoothed = smooth(self.y, now, three, self.smooth);
                    for i in 0..3 {
                        signs.cross(&edge, bar, three[i], smoothed[i] * V::splat(self.by_smooth[three[i]]));
                    }
                }
            });
            signs.end_bar(bar);
        }
        signs.end();
    }
}

/// W of the last values of y, for three lengths of ascending size: side by side as far as the
/// shortest smoothing goes, then each on its own.
#[inline(always)]
fn smooth<V: Vector>(y: &[Nine<V>], now: usize, three: [usize; 3], smooth: &Nine<usize>) -> [V; 3] {
    let mut sums = [y[now][three[0]], y[now][three[1]], y[now][three[2]]];
    let mut weighted = sums;
    for lag in 1..smooth[three[0]] {
        let past = &y[now - lag];
        for i in 0..3 {
            sums[i] = sums[i] + past[three[i]];
            weighted[i] = weighted[i] + sums[i];
        }
    }
    for i in 1..3 {
        for lag in smooth[three[0]]..smooth[three[i]] {
            sums[i] = sums[i] + y[now - lag][three[i]];
            weighted[i] = weighted[i] + sums[i];
        }
    }
    weighted
}

const SPAN: f64 = 0.666 - 0.064;
const SLOW: f64 = 0.064;

/// KAMA: K + (c*c)*(x - K), c from the move over the window against its noise.
pub struct Kama<'a, V, const ROBUSTNESS: usize, const FORM: u8> {
    pub crossing: Crossing<'a, V>,
    pub x: Rows<'a, V>,
    /// |x[t] - x[t-1]|.
    pub change: Rows<'a, V>,
    pub shortest: usize,
    /// Sums of the shortest window over `change`.
    pub noise: &'a [V],
    pub lengths: &'a Nine<usize>,
    pub pine: bool,
    pub k: &'a mut Nine<V>,
}

impl<V: Vector, const ROBUSTNESS: usize, const FORM: u8> Pass<V> for Kama<'_, V, ROBUSTNESS, FORM> {
    #[inline(always)]
    fn run(self) {
        let mut k = *self.k;
        let (zero, t0) = (V::splat(0.0), self.crossing.t);
        let mut signs = Signs::<V, FORM>::begin(self.crossing);
        for bar in 0..signs.bars() {
            let (edge, x) = (signs.edge(bar), self.x.at(bar));
            let older = self.change.back(bar, self.shortest, span(ROBUSTNESS));
            let starts = self.x.back(bar, self.shortest, span(ROBUSTNESS) + 1);
            let mut noise = self.noise[bar];
            nine_times!(I => {
                let j = const { ASCENDING[I] };
                noise = longer::<V, ROBUSTNESS, I>(noise, older);
                let start = starts[const { span(ROBUSTNESS) - beyond_shortest(ROBUSTNESS, I) }];
                let ratio = V::select(noise.gt(zero), (x - start).abs() / noise, zero);
                let c = ratio * V::splat(SPAN) + V::splat(SLOW);
                let next = k[j] + (c * c) * (x - k[j]);
                k[j] = if FORM == GENERAL {
                    let t = t0 + V::splat(bar as f64);
                    let held = if self.pine { k[j] } else { V::select(t.eq(zero), x, k[j]) };
                    V::select(t.ge(V::splat(self.lengths[j] as f64)), next, held)
                } else {
                    next
                };
                signs.cross(&edge, bar, j, k[j]);
            });
            signs.end_bar(bar);
        }
        signs.end();
        *self.k = k;
    }
}
