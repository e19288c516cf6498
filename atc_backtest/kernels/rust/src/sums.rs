//! Window sums: doubling up to powers of two, and the shortest window of a family out of them.

use crate::vector::{Pass, Vector};

/// Plain and weighted sums over the last 2^p values, for every row of a tile and as far back as
/// the windows reach.
pub struct Doublings<V> {
    /// Level p at index p - 1; level 0 is the values themselves.
    levels: Vec<Level<V>>,
    /// [p]: rows before the tile's first bar at which level p is read.
    reach: Vec<usize>,
    weighted: bool,
}

struct Level<V> {
    plain: Vec<V>,
    weighted: Vec<V>,
}

impl<V: Vector> Doublings<V> {
    /// For windows of these lengths over `rows` rows of values.
    pub fn new(lengths: &[usize], weighted: bool, rows: usize) -> Self {
        let mut reach = vec![0; 1];
        for &length in lengths {
            for (power, lag) in powers(length) {
                if reach.len() <= power {
                    reach.resize(power + 1, 0);
                }
                reach[power] = reach[power].max(lag);
            }
        }
        for p in (1..reach.len()).rev() {
            reach[p - 1] = reach[p - 1].max(reach[p] + (1 << (p - 1)));
        }
        let zeros = |used: bool| vec![V::splat(0.0); if used { rows } else { 0 }];
        let level = |_| Level { plain: zeros(true), weighted: zeros(weighted) };
        Self { levels: (1..reach.len()).map(level).collect(), reach, weighted }
    }

    /// Sums for the bars at rows `first..stop` of `x`.
    pub fn fill(&mut self, x: &[V], first: usize, stop: usize) {
        for p in 1..self.reach.len() {
            let (below, level) = self.levels.split_at_mut(p - 1);
            let (plain, weighted) = below.last().map_or((x, x), |l| (&l.plain, &l.weighted));
            let (from, half) = (first - self.reach[p], 1 << (p - 1));
            let Level { plain: out, weighted: weighted_out } = &mut level[0];
            V::enter(Double {
                plain: (&plain[from..stop], &plain[from - half..stop - half]),
                out: &mut out[from..stop],
            });
            if self.weighted {
                V::enter(DoubleWeighted {
                    half: half as f64,
                    plain: &plain[from..stop],
                    weighted: (&weighted[from..stop], &weighted[from - half..stop - half]),
                    out: &mut weighted_out[from..stop],
                });
            }
        }
    }

    fn level<'a>(&'a self, x: &'a [V], p: usize) -> (&'a [V], &'a [V]) {
        if p == 0 { (x, x) } else { (&self.levels[p - 1].plain, &self.levels[p - 1].weighted) }
    }
}

/// A window's powers of two, newest first: (exponent, bars before the newest).
fn powers(length: usize) -> impl Iterator<Item = (usize, usize)> {
    let mut rest = length;
    std::iter::from_fn(move || {
        let power = rest.checked_ilog2()? as usize;
        let lag = length - rest;
        rest -= 1 << power;
        Some((power, lag))
    })
}

struct Double<'a, V> {
    plain: (&'a [V], &'a [V]),
    out: &'a mut [V],
}

impl<V: Vector> Pass<V> for Double<'_, V> {
    #[inline(always)]
    fn run(self) {
        let n = self.out.len();
        let (now, before) = (&self.plain.0[..n], &self.plain.1[..n]);
        for i in 0..n {
            self.out[i] = now[i] + before[i];
        }
    }
}

struct DoubleWeighted<'a, V> {
    half: f64,
    plain: &'a [V],
    weighted: (&'a [V], &'a [V]),
    out: &'a mut [V],
}

impl<V: Vector> Pass<V> for DoubleWeighted<'_, V> {
    #[inline(always)]
    fn run(self) {
        let n = self.out.len();
        let (plain, now, before) = (&self.plain[..n], &self.weighted.0[..n], &self.weighted.1[..n]);
        let half = V::splat(self.half);
        for i in 0..n {
            self.out[i] = (now[i] + half * plain[i]) + before[i];
        }
    }
}

/// Plain (`s`) and weighted (`w`, where the doublings are) sums of one window, a value per bar.
pub struct Window<V> {
    pub length: usize,
    pub s: Vec<V>,
    pub w: Vec<V>,
}

impl<V: Vector> Window<V> {
    pub fn new(length: usize, weighted: bool, bars: usize) -> Self {
        let zeros = |n| vec![V::splat(0.0); n];
        Self { length, s: zeros(bars), w: zeros(if weighted { bars } else { 0 }) }
    }

    /// Sums for the bars at rows `first..stop` of `x`, from the doublings of the same rows.
    pub fn fill(&mut self, doublings: &Doublings<V>, x: &[V], first: usize, stop: usize) {
        let mut rest = self.length;
        for (power, lag) in powers(self.length) {
            rest -= 1 << power;
            let (plain, weighted) = doublings.level(x, power);
            let rows = first - lag..stop - lag;
            let (newest, s) = (lag == 0, &mut self.s[..stop - first]);
            if self.w.is_empty() {
                V::enter(Term { plain: &plain[rows], newest, s });
            } else {
                let (plain, weighted) = (&plain[rows.clone()], &weighted[rows]);
                let w = &mut self.w[..stop - first];
                V::enter(WeightedTerm { rest: rest as f64, plain, weighted, newest, s, w });
            }
        }
    }
}

/// Room for the sums of one block of values while they are doubled.
pub struct Scratch<V> {
    plain: Vec<V>,
    weighted: Vec<V>,
}

impl<V: Vector> Scratch<V> {
    /// For windows of at most `length`.
    pub fn new(length: usize) -> Self {
        Self { plain: vec![V::splat(0.0); length], weighted: vec![V::splat(0.0); length] }
    }

    /// S and W of the last `length` values, by the same additions as `Doublings` and `Window::fill` make for
    /// every bar of a tile, but only those that the last bar needs.
    #[inline(always)]
    pub fn last(&mut self, values: &[V], length: usize) -> (V, V) {
        let (mut s, mut w) = (V::splat(0.0), V::splat(0.0));
        let mut rest = length;
        for (power, lag) in powers(length) {
            let n = 1 << power;
            rest -= n;
            let stop = values.len() - lag;
            let (plain, mut weighted) = self.doubled(&values[stop - n..stop]);
            if rest > 0 {
                weighted = weighted + V::splat(rest as f64) * plain;
            }
            (s, w) = if lag == 0 { (plain, weighted) } else { (s + plain, w + weighted) };
        }
        (s, w)
    }

    /// T and W of a power of two of values.
    #[inline(always)]
    fn doubled(&mut self, values: &[V]) -> (V, V) {
        let mut n = values.len() / 2;
        if n == 0 {
            return (values[0], values[0]);
        }
        let (plain, weighted) = (&mut self.plain[..n], &mut self.weighted[..n]);
        for (i, two) in values.as_chunks::<2>().0.iter().enumerate() {
            plain[i] = two[1] + two[0];
            weighted[i] = (two[1] + two[1]) + two[0];
        }
        let mut half = 2.0;
        while n > 1 {
            n /= 2;
            for i in 0..n {
                let (before, now) = (plain[2 * i], plain[2 * i + 1]);
                plain[i] = now + before;
                weighted[i] = (weighted[2 * i + 1] + V::splat(half) * now) + weighted[2 * i];
            }
            half *= 2.0;
        }
        (plain[0], weighted[0])
    }
}

/// S = T (the newest power of two), or S = S + T.
struct Term<'a, V> {
    plain: &'a [V],
    newest: bool,
    s: &'a mut [V],
}

impl<V: Vector> Pass<V> for Term<'_, V> {
    #[inline(always)]
    fn run(self) {
        let plain = &self.plain[..self.s.len()];
        if self.newest {
            self.s.copy_from_slice(plain);
            return;
        }
        for (s, plain) in self.s.iter_mut().zip(plain) {
            *s = *s + *plain;
        }
    }
}

/// The same, and W = W + (W_n + rest*T_n).
struct WeightedTerm<'a, V> {
    rest: f64,
    plain: &'a [V],
    weighted: &'a [V],
    newest: bool,
    s: &'a mut [V],
    w: &'a mut [V],
}

impl<V: Vector> Pass<V> for WeightedTerm<'_, V> {
    #[inline(always)]
    fn run(self) {
        let n = self.s.len();
        let (plain, weighted, w) = (&self.plain[..n], &self.weighted[..n], &mut self.w[..n]);
        let rest = V::splat(self.rest);
        if self.newest {
            for i in 0..n {
                self.s[i] = plain[i];
                w[i] = if self.rest > 0.0 { weighted[i] + rest * plain[i] } else { weighted[i] };
            }
            return;
        }
        for i in 0..n {
            self.s[i] = self.s[i] + plain[i];
            w[i] = w[i] + if self.rest > 0.0 { weighted[i] + rest * plain[i] } else { weighted[i] };
        }
    }
}
