//! One tile of a group: prices in, averages to signs, signs to equities, outputs out.

use super::Group;
use crate::advance::Outputs;
use crate::averages::Rows;
use crate::equities::{Cutout, Factors, Layer1, Layer2, Rise, stays_below};
use crate::families::{Inputs, signs_of};
use crate::lanes::Lanes;
use crate::signs::{Crossing, GENERAL, SETTLED, SETTLED_SIDES, band};
use crate::stream::{AVERAGES, FAMILIES, KAMA, LENGTHS, Member};
use crate::vector::{Pass, Vector};

impl<V: Vector> Group<'_, V> {
    /// The next `lanes.n` bars: averages and signs family by family, each straight into equities.
    pub(super) fn tile(&mut self, lanes: &mut Lanes, outputs: &mut Outputs) {
        let (n, t) = (lanes.n, lanes.t::<V>());
        self.prepare(lanes);
        self.settle(lanes);
        let (first, stop) = (self.stream.history, self.stream.history + n);
        self.sums.fill(&self.x, &self.change, (first, stop), &self.settled);
        for i in 0..self.firsts.len() {
            self.factors(i, lanes);
        }
        let keep = outputs.average.is_some();
        for family in 0..FAMILIES {
            self.signs[0] = self.sign[family];
            match self.settled[family] && !keep {
                false => self.family::<GENERAL>(family, t, n),
                // The last bar before the state is saved must leave true sides.
                true if lanes.finishes() => self.family::<SETTLED_SIDES>(family, t, n),
                true => self.family::<SETTLED>(family, t, n),
            }
            self.sign[family] = self.signs[n];
            self.write_averages(family, lanes, outputs);
            for i in 0..self.firsts.len() {
                self.layer1(i, family, t, lanes, outputs);
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
        for first in &mut self.firsts {
            let cutout = self.members[first.leader].cutout;
            first.past_cutout = first.past_cutout || lanes.active().all(|(_, t)| t > cutout);
        }
    }

    fn factors(&mut self, i: usize, lanes: &Lanes) {
        let (n, layer) = (lanes.n, &mut self.firsts[i]);
        let member = &self.members[layer.leader];
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
        V::enter(Rise {
            returns: &self.returns[..n],
            growth: &self.growth[..n],
            keep: member.keep,
            up: &mut layer.up[..n],
            down: &mut layer.down[..n],
            rise: &mut layer.rise,
        });
    }

    /// Pass 1 of one family, the tile's `n` bars.
    fn family<const FORM: u8>(&mut self, family: usize, t: V, n: usize) {
        let (history, y_first) = (self.stream.history, self.y_first());
        let crossing = Crossing {
            low: &self.low[..n],
            high: &self.high[..n],
            t,
            first: &self.stream.first[family],
            side: &mut self.side[family],
            signs: &mut self.signs[..n + 1],
            averages: &mut self.averages[..n],
        };
        let inputs = Inputs {
            stream: self.stream,
            x: Rows { rows: &self.x[..history + n], first: history },
            change: Rows { rows: &self.change[..history + n], first: history },
            window: self.sums.of(family, n),
            half: self.sums.of(FAMILIES, n),
            noise: self.sums.noise(n),
            y: &mut self.y[..y_first + n],
            y_first,
            recursive: &mut self.recursive,
        };
        signs_of::<V, FORM>(family, self.robustness, inputs, crossing);
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

    fn layer1(&mut self, i: usize, family: usize, t: V, lanes: &Lanes, outputs: &mut Outputs) {
        let (n, layer) = (lanes.n, &mut self.firsts[i]);
        let leader = &self.members[layer.leader];
        let fast = self.settled[family]
            && layer.past_cutout
            && outputs.equity1.is_none()
            && stays_below(&layer.equity1[family], layer.rise);
        let factors = Factors { up: &layer.up[..n], down: &layer.down[..n], keep: leader.keep };
        let cutout = Cutout { t, at: leader.cutout as f64 };
        let (e, q) = (&mut layer.equity1[family], &mut layer.q[family][1..n + 1]);
        let (signs, kept) = (&self.signs[..n + 1], &mut self.kept1[..n]);
        if fast {
            V::enter(Layer1::<V, false> { factors, cutout, signs, e, q, kept });
        } else {
            V::enter(Layer1::<V, true> { factors, cutout, signs, e, q, kept });
        }
        if outputs.layer1.is_some() {
            let s = &mut self.signal[..n];
            V::enter(Hundredths { q: &self.firsts[i].q[family][1..n + 1], s });
        }
        for member in self.members.iter().filter(|member| member.layer1 == i) {
            if let Some(out) = self.of_config(member, AVERAGES, &mut outputs.equity1) {
                for j in 0..LENGTHS {
                    let tile = &self.kept1[..n].as_flattened()[j..];
                    lanes.scatter(out, (AVERAGES, family * LENGTHS + j), tile, LENGTHS);
                }
            }
            if let Some(out) = self.of_config(member, FAMILIES, &mut outputs.layer1) {
                lanes.scatter(out, (FAMILIES, family), &self.signal[..n], 1);
            }
        }
    }

    fn layer2(&mut self, m: usize, t: V, lanes: &Lanes, outputs: &mut Outputs) {
        let (n, member) = (lanes.n, &self.members[m]);
        let layer = &self.firsts[member.layer1];
        let factors = Factors { up: &layer.up[..n], down: &layer.down[..n], keep: member.keep };
        let cutout = Cutout { t, at: member.cutout as f64 };
        let q = layer.q.each_ref().map(|q| &q[..n + 1]);
        let (e, signal, kept) = (&mut self.seconds[m], &mut self.signal[..n], &mut self.kept2[..n]);
        if layer.past_cutout && outputs.equity2.is_none() {
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
        for q in self.firsts.iter_mut().flat_map(|first| &mut first.q) {
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
