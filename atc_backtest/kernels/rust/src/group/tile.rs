//! One tile of a group: prices in, averages to signs, signs to equities, outputs out.

use super::Group;
use crate::advance::Outputs;
use crate::averages::{
    Dema, Ema, Halves, Hma, Kama, LSMA as BY_LSMA, Rows, SMA, Seed, WMA as BY_WMA, Windowed,
};
use crate::equities::{Cutout, Factors, Layer1, Layer2, Rise, stays_below};
use crate::lanes::Lanes;
use crate::signs::{Crossing, band};
use crate::stream::{AVERAGES, DEMA, EMA, FAMILIES, HMA, KAMA, LENGTHS, LSMA, Member, WMA};
use crate::vector::{Pass, Vector};

impl<V: Vector> Group<'_, V> {
    /// The next `lanes.n` bars: averages and signs family by family, each straight into equities.
    pub(super) fn tile(&mut self, lanes: &mut Lanes, outputs: &mut Outputs) {
        let (n, t) = (lanes.n, lanes.t::<V>());
        self.prepare(lanes);
        self.settle(lanes);
        self.sum(n);
        for m in 0..self.members.len() {
            self.factors(m, lanes);
        }
        let keep = outputs.average.is_some();
        for family in 0..FAMILIES {
            self.signs[0] = self.sign[family];
            // The last bar before the state is saved must leave true sides, as the general form does.
            let fast = if !self.settled[family] || keep { 0 } else { n - usize::from(lanes.finishes()) };
            if fast > 0 {
                self.dispatch::<false>(family, t, n, 0, fast);
            }
            if fast < n {
                self.dispatch::<true>(family, t, n, fast, n);
            }
            self.sign[family] = self.signs[n];
            self.write_averages(family, lanes, outputs);
            for m in 0..self.members.len() {
                self.layer1(m, family, t, lanes, outputs);
            }
        }
        for m in 0..self.members.len() {
            self.layer2(m, t, lanes, outputs);
        }
        self.shift(n);
    }

    /// Prices into the tile; what depends on them alone.
    fn prepare(&mut self, lanes: &mut Lanes) {
        let (n, history) = (lanes.n, self.stream.history);
        let before = (self.close[0], self.x[history - 1]);
        lanes.gather(before, &mut self.close[1..], &mut self.x[history..]);
        V::enter(Prepare {
            close: &self.close[..n + 1],
            low: &mut self.low[..n],
            high: &mut self.high[..n],
            returns: &mut self.returns[..n],
        });
        V::enter(Change { x: &self.x[..history + n], change: &mut self.change[..history + n] });
    }

    /// Note which families and cutouts need no second look from here on.
    fn settle(&mut self, lanes: &Lanes) {
        for (family, settled) in self.settled.iter_mut().enumerate().filter(|(_, settled)| !**settled) {
            let mut warm = self.stream.first[family].into_iter().fold(0.0, f64::max);
            if family == KAMA {
                warm = self.stream.lengths[KAMA].into_iter().fold(warm, |a, length| a.max(length as f64));
            }
            let signs = V::numbers(&self.sign[family]);
            *settled = lanes.active().all(|(lane, t)| {
                t as f64 > warm && signs.iter().skip(lane).step_by(V::LANES).all(|&sign| sign != 0.0)
            });
        }
        for (member, layers) in self.members.iter().zip(&mut self.layers) {
            layers.past_cutout = layers.past_cutout || lanes.active().all(|(_, t)| t > member.cutout);
        }
    }

    /// Sums of every family's shortest window.
    fn sum(&mut self, n: usize) {
        let (first, stop) = (self.stream.history, self.stream.history + n);
        self.sums.fill(&self.x, first, stop);
        let mut needed: Vec<usize> = [HMA, WMA, LSMA, FAMILIES].map(|f| self.window_of[f]).into();
        needed.extend([EMA, DEMA].into_iter().filter(|&f| !self.settled[f]).map(|f| self.window_of[f]));
        for (index, window) in self.windows.iter_mut().enumerate() {
            if needed.contains(&index) {
                window.fill(&self.sums, &self.x, first, stop);
            }
        }
        self.change_sums.fill(&self.change, first, stop);
        self.noise.fill(&self.change_sums, &self.change, first, stop);
    }

    fn factors(&mut self, m: usize, lanes: &Lanes) {
        let (n, member) = (lanes.n, &self.members[m]);
        let (growth, last) = (&mut self.growth[..n], member.growth.len() - 1);
        // Before the cutout any value will do; after the last, the last.
        let start = |t: i64| usize::try_from(t - member.cutout - member.growth_start).unwrap_or(0).min(last);
        let early = |t: i64| usize::try_from(member.cutout + member.growth_start - t).unwrap_or(0).min(n);
        let mut t = lanes.active().map(|(_, t)| t);
        let lead = t.next().unwrap_or(0);
        let together = t.all(|t| t == lead) || lanes.active().all(|(_, t)| start(t) == last);
        V::enter(Spread { values: &member.growth[start(lead)..], early: early(lead), to: growth });
        if !together {
            let growth = V::numbers_mut(growth);
            for (lane, t) in lanes.active() {
                let values =
                    std::iter::repeat_n(&member.growth[0], early(t)).chain(&member.growth[start(t)..]);
                let values = values.chain(std::iter::repeat(&member.growth[last]));
                growth.chunks_exact_mut(V::LANES).zip(values).for_each(|(to, g)| to[lane] = *g);
            }
        }
        let layers = &mut self.layers[m];
        V::enter(Rise {
            returns: &self.returns[..n],
            growth: &self.growth[..n],
            keep: member.keep,
            up: &mut layers.up[..n],
            down: &mut layers.down[..n],
            rise: &mut layers.rise,
        });
    }

    fn dispatch<const GENERAL: bool>(&mut self, family: usize, t: V, n: usize, from: usize, to: usize) {
        match self.robustness {
            0 => self.signs_of::<0, GENERAL>(family, t, n, from, to),
            1 => self.signs_of::<1, GENERAL>(family, t, n, from, to),
            _ => self.signs_of::<2, GENERAL>(family, t, n, from, to),
        }
    }

    /// Pass 1 of one family, bars `from..to` of the tile's `n`.
    fn signs_of<const R: usize, const GENERAL: bool>(
        &mut self,
        family: usize,
        t: V,
        n: usize,
        from: usize,
        to: usize,
    ) {
        let stream = self.stream;
        let crossing = Crossing {
            low: &self.low[..n],
            high: &self.high[..n],
            t,
            first: &stream.first[family],
            side: &mut self.side[family],
            signs: &mut self.signs[..n + 1],
            averages: &mut self.averages[..n],
            from,
            to,
        };
        let first = stream.history;
        let x = Rows { rows: &self.x[..first + n], first };
        let window = &self.windows[self.window_of[family]];
        let (s, w, shortest) = (&window.s[..n], &window.w[..n], window.length);
        let alpha = &stream.alpha[family];
        let seed = Seed { pine: stream.pine, shortest, s, sma: &stream.sma[family] };
        let [ema, e1, e2, k] = &mut self.recursive;
        match family {
            EMA => V::enter(Ema::<V, R, GENERAL> { crossing, x, alpha, seed, e: ema }),
            DEMA => V::enter(Dema::<V, R, GENERAL> { crossing, x, alpha, seed, e1, e2 }),
            KAMA => V::enter(Kama::<V, R, GENERAL> {
                crossing,
                x,
                change: Rows { rows: &self.change[..first + n], first },
                shortest,
                noise: &self.noise.s[..n],
                lengths: &stream.lengths[family],
                pine: stream.pine,
                k,
            }),
            HMA if !stream.pine => {
                let half = &self.windows[self.window_of[FAMILIES]];
                let y_first = self.y.len() - self.most;
                let halves = Halves { s: &half.s[..n], w: &half.w[..n], by: &stream.hma_half };
                let y = &mut self.y[..y_first + n];
                let (by_full, by_smooth, smooth) = (&stream.wma[family], &stream.hma_smooth, &stream.smooth);
                if shortest % 2 == 1 {
                    V::enter(Hma::<V, 1, R, GENERAL> {
                        crossing,
                        x,
                        shortest,
                        s,
                        w,
                        halves,
                        by_full,
                        by_smooth,
                        smooth,
                        y,
                        y_first,
                    });
                } else {
                    V::enter(Hma::<V, 0, R, GENERAL> {
                        crossing,
                        x,
                        shortest,
                        s,
                        w,
                        halves,
                        by_full,
                        by_smooth,
                        smooth,
                        y,
                        y_first,
                    });
                }
            }
            HMA => {
                let (by_s, by_w) = (&stream.sma[family], &stream.wma[family]);
                V::enter(Windowed::<V, SMA, R, GENERAL> { crossing, x, shortest, s, w, by_s, by_w });
            }
            WMA => {
                let (by_s, by_w) = (&stream.sma[family], &stream.wma[family]);
                V::enter(Windowed::<V, BY_WMA, R, GENERAL> { crossing, x, shortest, s, w, by_s, by_w });
            }
            _ => {
                let (by_s, by_w) = (&stream.lsma_s[family], &stream.lsma_w[family]);
                V::enter(Windowed::<V, BY_LSMA, R, GENERAL> { crossing, x, shortest, s, w, by_s, by_w });
            }
        }
    }

    fn write_averages(&self, family: usize, lanes: &Lanes, outputs: &mut Outputs) {
        let n = lanes.n;
        for member in self.members {
            for j in 0..LENGTHS {
                let place = (AVERAGES, family * LENGTHS + j);
                if let Some(out) = self.of_config(member, AVERAGES, &mut outputs.average) {
                    lanes.scatter(out, place, &self.averages[..n].as_flattened()[j..], LENGTHS);
                }
                if let Some(out) = self.of_config(member, AVERAGES, &mut outputs.sign) {
                    lanes.scatter(out, place, &self.signs[1..n + 1].as_flattened()[j..], LENGTHS);
                }
            }
        }
    }

    /// An output's part for one configuration.
    fn of_config<'o>(
        &self,
        member: &Member,
        values: usize,
        output: &'o mut Option<&mut [f64]>,
    ) -> Option<&'o mut [f64]> {
        let size = self.prices.n_symbols * values * self.prices.n_bars;
        output.as_deref_mut().map(|array| &mut array[member.config * size..][..size])
    }

    fn layer1(&mut self, m: usize, family: usize, t: V, lanes: &Lanes, outputs: &mut Outputs) {
        let (n, member, layers) = (lanes.n, &self.members[m], &mut self.layers[m]);
        let fast = self.settled[family]
            && layers.past_cutout
            && outputs.equity1.is_none()
            && stays_below(&layers.equity1[family], layers.rise);
        let factors = Factors { up: &layers.up[..n], down: &layers.down[..n], keep: member.keep };
        let cutout = Cutout { t, at: member.cutout as f64 };
        let (e, q) = (&mut layers.equity1[family], &mut layers.q[family][1..n + 1]);
        let (signs, kept) = (&self.signs[..n + 1], &mut self.kept1[..n]);
        if fast {
            V::enter(Layer1::<V, false> { factors, cutout, signs, e, q, kept });
        } else {
            V::enter(Layer1::<V, true> { factors, cutout, signs, e, q, kept });
        }
        if let Some(out) = self.of_config(member, AVERAGES, &mut outputs.equity1) {
            for j in 0..LENGTHS {
                let tile = &self.kept1[..n].as_flattened()[j..];
                lanes.scatter(out, (AVERAGES, family * LENGTHS + j), tile, LENGTHS);
            }
        }
        if let Some(out) = self.of_config(member, FAMILIES, &mut outputs.layer1) {
            let s = &mut self.signal[..n];
            V::enter(Hundredths { q: &self.layers[m].q[family][1..n + 1], s });
            lanes.scatter(out, (FAMILIES, family), s, 1);
        }
    }

    fn layer2(&mut self, m: usize, t: V, lanes: &Lanes, outputs: &mut Outputs) {
        let (n, member, layers) = (lanes.n, &self.members[m], &mut self.layers[m]);
        let factors = Factors { up: &layers.up[..n], down: &layers.down[..n], keep: member.keep };
        let cutout = Cutout { t, at: member.cutout as f64 };
        let q = layers.q.each_ref().map(|q| &q[..n + 1]);
        let (e, signal, kept) = (&mut layers.equity2, &mut self.signal[..n], &mut self.kept2[..n]);
        if layers.past_cutout && outputs.equity2.is_none() {
            V::enter(Layer2::<V, false> { factors, cutout, member, q, e, signal, kept });
        } else {
            V::enter(Layer2::<V, true> { factors, cutout, member, q, e, signal, kept });
        }
        if let Some(out) = self.of_config(member, 1, &mut outputs.signal) {
            lanes.scatter(out, (1, 0), &self.signal[..n], 1);
        }
        if let Some(out) = self.of_config(member, FAMILIES, &mut outputs.equity2) {
            for f in 0..FAMILIES {
                let tile = &self.kept2[..n].as_flattened()[f..];
                lanes.scatter(out, (FAMILIES, f), tile, FAMILIES);
            }
        }
    }

    /// The ends of the tile's rows become what stands before the next.
    fn shift(&mut self, n: usize) {
        let history = self.stream.history;
        self.close[0] = self.close[n];
        self.x.copy_within(n..n + history, 0);
        let before = self.y_first();
        self.y.copy_within(n..n + before, 0);
        for q in self.layers.iter_mut().flat_map(|layers| &mut layers.q) {
            q[0] = q[n];
        }
    }
}

/// The band around each close and the return into it; `close` begins one bar earlier.
struct Prepare<'a, V> {
    close: &'a [V],
    low: &'a mut [V],
    high: &'a mut [V],
    returns: &'a mut [V],
}

impl<V: Vector> Pass<V> for Prepare<'_, V> {
    #[inline(always)]
    fn run(self) {
        let n = self.returns.len();
        let (before, now) = (&self.close[..n], &self.close[1..n + 1]);
        let (low, high) = (&mut self.low[..n], &mut self.high[..n]);
        for i in 0..n {
            (low[i], high[i]) = band(now[i]);
            self.returns[i] = (now[i] - before[i]) / before[i];
        }
    }
}

/// The same number in every lane: `values[0]` for `early` bars more, then each, then the last again.
struct Spread<'a, V> {
    values: &'a [f64],
    early: usize,
    to: &'a mut [V],
}

impl<V: Vector> Pass<V> for Spread<'_, V> {
    #[inline(always)]
    fn run(self) {
        let (early, late) = self.to.split_at_mut(self.early);
        let (each, after) = late.split_at_mut(late.len().min(self.values.len()));
        for to in early {
            *to = V::splat(self.values[0]);
        }
        for (to, value) in each.iter_mut().zip(self.values) {
            *to = V::splat(*value);
        }
        for to in after {
            *to = V::splat(self.values[self.values.len() - 1]);
        }
    }
}

/// |x[t] - x[t-1]|; the first has no x before it and is never read.
struct Change<'a, V> {
    x: &'a [V],
    change: &'a mut [V],
}

impl<V: Vector> Pass<V> for Change<'_, V> {
    #[inline(always)]
    fn run(self) {
        let n = self.change.len();
        for i in 1..n {
            self.change[i] = (self.x[i] - self.x[i - 1]).abs();
        }
    }
}

/// S = q / 100.
struct Hundredths<'a, V> {
    q: &'a [V],
    s: &'a mut [V],
}

impl<V: Vector> Pass<V> for Hundredths<'_, V> {
    #[inline(always)]
    fn run(self) {
        for (s, q) in self.s.iter_mut().zip(self.q) {
            *s = *q / V::splat(100.0);
        }
    }
}
