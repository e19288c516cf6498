//! Pass 2, per configuration: signals to equities, families to layer-1 signals, votes to the final one.

use crate::averages::nine_times;
use crate::stream::{FAMILIES, LENGTHS, Member};
use crate::vector::{Pass, Vector};

const FLOOR: f64 = 0.25;
const CEILING: f64 = 1e150;
/// Below this, an equity bounded by rounded factors is below `CEILING` beyond doubt.
const SAFE: f64 = 1e140;

/// Per bar of the tile: what a long and a short equity is multiplied with. A flat one: `keep`.
pub struct Factors<'a, V> {
    pub up: &'a [V],
    pub down: &'a [V],
    pub keep: f64,
}

/// Where the tile stands against a configuration's cutout.
#[derive(Clone, Copy)]
pub struct Cutout<V> {
    /// Bar number of the tile's first bar.
    pub t: V,
    pub at: f64,
}

impl<V: Vector> Cutout<V> {
    /// `stepped` after the cutout, `start` at it, NaN before it.
    #[inline(always)]
    fn applied(&self, bar: usize, stepped: V, start: V) -> V {
        let (t, at) = (self.t + V::splat(bar as f64), V::splat(self.at));
        V::select(t.gt(at), stepped, V::select(t.eq(at), start, V::splat(f64::NAN)))
    }
}

#[inline(always)]
fn by_sign<V: Vector>(sign: V, up: V, down: V, flat: V) -> V {
    let zero = V::splat(0.0);
    V::select(sign.gt(zero), up, V::select(sign.lt(zero), down, flat))
}

/// Returns, gains and factors of a tile: `up`, `down` from `returns` and growth, and how far an
/// equity can rise within it.
pub struct Rise<'a, V> {
    pub returns: &'a [V],
    pub growth: &'a [V],
    pub keep: f64,
    pub up: &'a mut [V],
    pub down: &'a mut [V],
    /// At least the product of the factors of any equity over the tile, up to rounding.
    pub rise: &'a mut V,
}

impl<V: Vector> Pass<V> for Rise<'_, V> {
    #[inline(always)]
    fn run(self) {
        let n = self.returns.len();
        let (growth, up, down) = (&self.growth[..n], &mut self.up[..n], &mut self.down[..n]);
        let (zero, one, keep) = (V::splat(0.0), V::splat(1.0), V::splat(self.keep));
        let mut rise = one;
        for bar in 0..n {
            let gain = self.returns[bar] * growth[bar];
            up[bar] = keep * (one + gain);
            down[bar] = keep * (one - gain);
            // Infinite or undefined factors must not hide: 0 times such a gain is NaN, and stays.
            rise = rise * one.larger(up[bar].larger(down[bar])) + gain * zero;
        }
        *self.rise = rise;
    }
}

/// Can no equity of `e` pass the ceiling within a tile that lifts it at most by `rise`?
pub fn stays_below<V: Vector>(e: &[V; LENGTHS], rise: V) -> bool {
    let mut bound = [rise];
    V::enter(Highest { e, bound: &mut bound[0] });
    V::numbers(&bound).iter().all(|&bound| bound < SAFE)
}

/// Can no equity of a layer 1 pass the ceiling within a bar that lifts it at most by `rise`? The bound grows
/// with every bar, and is taken from the equities anew when it says no more.
#[inline(always)]
pub fn bound_stays_below<V: Vector>(bound: &mut f64, rise: V, equities: &[[V; LENGTHS]]) -> bool {
    let rises = [rise];
    let (mut most, mut finite) = (1.0, true);
    for &rise in V::numbers(&rises) {
        finite &= rise < SAFE; // not so where it is not a number
        most = if rise > most { rise } else { most };
    }
    if !finite {
        *bound = f64::INFINITY;
        return false;
    }
    *bound *= most;
    if *bound >= SAFE {
        let highest = V::numbers(equities.as_flattened()).iter().fold(0.0, |a: f64, &e| a.max(e));
        *bound = highest * most;
    }
    *bound < SAFE
}

struct Highest<'a, V> {
    e: &'a [V; LENGTHS],
    /// The rise, then the rise of the highest equity.
    bound: &'a mut V,
}

impl<V: Vector> Pass<V> for Highest<'_, V> {
    #[inline(always)]
    fn run(self) {
        let mut highest = self.e[0];
        for j in 1..LENGTHS {
            highest = highest.larger(self.e[j]);
        }
        *self.bound = *self.bound * highest;
    }
}

/// Layer 1 of one family: nine equities, and q = 100 * S in hundredths.
///
/// `GENERAL`: signals may be 0, the cutout may lie in the tile or after it, equities are kept per bar,
/// and the ceiling is minded.
pub struct Layer1<'a, V, const GENERAL: bool> {
    pub factors: Factors<'a, V>,
    pub cutout: Cutout<V>,
    /// [1 + bar], row 0 before the tile.
    pub signs: &'a [[V; LENGTHS]],
    pub e: &'a mut [V; LENGTHS],
    /// [bar].
    pub q: &'a mut [V],
    /// [bar]; written by the general form only.
    pub kept: &'a mut [[V; LENGTHS]],
}

impl<V: Vector, const GENERAL: bool> Pass<V> for Layer1<'_, V, GENERAL> {
    #[inline(always)]
    fn run(self) {
        let n = self.q.len();
        let (up, down) = (&self.factors.up[..n], &self.factors.down[..n]);
        let signs = &self.signs[..n + 1];
        assert!(!GENERAL || self.kept.len() >= n);
        let (floor, ceiling) = (V::splat(FLOOR), V::splat(CEILING));
        let (one, zero, flat) = (V::splat(1.0), V::splat(0.0), V::splat(self.factors.keep));
        let hundred = V::splat(100.0);
        let mut e = *self.e;
        for bar in 0..n {
            let (before, now) = (&signs[bar], &signs[bar + 1]);
            let (up, down) = (up[bar], down[bar]);
            let (mut num, mut den) = (zero, zero);
            nine_times!(J => {
                if GENERAL {
                    let next = (e[J] * by_sign(before[J], up, down, flat)).larger(floor).smaller(ceiling);
                    e[J] = self.cutout.applied(bar, next, one);
                    self.kept[bar][J] = e[J];
                } else {
                    e[J] = (e[J] * V::select(before[J].gt(zero), up, down)).larger(floor);
                }
                let term = now[J] * e[J];
                (num, den) = if J == 0 { (term, e[J]) } else { (num + term, den + e[J]) };
            });
            self.q[bar] = (hundred * (num / den)).rint();
        }
        *self.e = e;
    }
}

/// Layer 2: six equities of the layer-1 signals, and the final signal.
pub struct Layer2<'a, V, const GENERAL: bool> {
    pub factors: Factors<'a, V>,
    pub cutout: Cutout<V>,
    pub member: &'a Member<'a>,
    /// [family][1 + bar], row 0 before the tile.
    pub q: [&'a [V]; FAMILIES],
    pub e: &'a mut [V; FAMILIES],
    pub signal: &'a mut [V],
    /// [bar]; written by the general form only.
    pub kept: &'a mut [[V; FAMILIES]],
}

impl<V: Vector, const GENERAL: bool> Pass<V> for Layer2<'_, V, GENERAL> {
    #[inline(always)]
    fn run(self) {
        let n = self.signal.len();
        let (up, down) = (&self.factors.up[..n], &self.factors.down[..n]);
        let q = self.q.map(|q| &q[..n + 1]);
        assert!(!GENERAL || self.kept.len() >= n);
        let (floor, ceiling, flat) = (V::splat(FLOOR), V::splat(CEILING), V::splat(self.factors.keep));
        let (long, short) = (V::splat(self.member.up), V::splat(self.member.down));
        let (one, minus, zero) = (V::splat(1.0), V::splat(-1.0), V::splat(0.0));
        let mut e = *self.e;
        for bar in 0..n {
            let (mut num, mut den) = (zero, zero);
            for f in 0..FAMILIES {
                let next = e[f] * by_sign(q[f][bar], up[bar], down[bar], flat);
                e[f] = next.larger(floor).smaller(ceiling);
                if GENERAL {
                    e[f] = self.cutout.applied(bar, e[f], V::splat(self.member.weights[f]));
                    self.kept[bar][f] = e[f];
                }
                let now = q[f][bar + 1];
                let term = V::select(now.gt(long), one, V::select(now.lt(short), minus, zero)) * e[f];
                (num, den) = if f == 0 { (term, e[f]) } else { (num + term, den + e[f]) };
            }
            self.signal[bar] = num / den;
        }
        *self.e = e;
    }
}
