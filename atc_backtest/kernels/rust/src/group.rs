//! A group of symbols, one to a lane, through a block of bars, a tile at a time.

use crate::advance::{Outputs, Prices};
use crate::averages::{
    Dema, Ema, Halves, Hma, Kama, LSMA as BY_LSMA, Rows, SMA, Seed, WMA as BY_WMA, Windowed,
};
use crate::equities::{Cutout, Factors, Layer1, Layer2, Rise, stays_below};
use crate::lanes::Lanes;
use crate::signs::{Crossing, band};
use crate::stream::{
    AVERAGES, DEMA, EMA, EQUITY_SLOTS, FAMILIES, HMA, KAMA, LENGTHS, LSMA, Member, Stream, WMA,
};
use crate::sums::{Doublings, Window};
use crate::vector::{Pass, Vector};

type Nine<T> = [T; LENGTHS];

/// Bars of a tile: few enough that a family's signs stay in the first-level cache, and more where
/// windows are so long that going back to their beginnings would cost more than the tile.
fn tile_bars(history: usize, n_bars: usize) -> usize {
    history.clamp(64, 1024).min(n_bars)
}

/// Everything of a group that outlives a tile, and the tile's workspace.
pub struct Group<'a, V> {
    stream: &'a Stream,
    members: &'a [Member<'a>],
    prices: Prices<'a>,
    robustness: usize,
    most: usize,
    /// [1 + bar]: closes, the one before the tile first.
    close: Vec<V>,
    /// [history + bar].
    x: Vec<V>,
    change: Vec<V>,
    /// [longest smoothing - 1 + bar].
    y: Vec<Nine<V>>,
    /// EMA, DEMA's E1 and E2, KAMA.
    recursive: [Nine<V>; 4],
    side: [Nine<V>; FAMILIES],
    sign: [Nine<V>; FAMILIES],
    /// Per family: all averages defined and all signals nonzero, in every active lane.
    settled: [bool; FAMILIES],
    sums: Doublings<V>,
    change_sums: Doublings<V>,
    /// Of the shortest window by family, HMA's shortest half last; families of equal length share.
    windows: Vec<Window<V>>,
    window_of: [usize; FAMILIES + 1],
    noise: Window<V>,
    low: Vec<V>,
    high: Vec<V>,
    returns: Vec<V>,
    growth: Vec<V>,
    /// [1 + bar], of the family at hand.
    signs: Vec<Nine<V>>,
    averages: Vec<Nine<V>>,
    kept1: Vec<Nine<V>>,
    kept2: Vec<[V; FAMILIES]>,
    signal: Vec<V>,
    layers: Vec<Layers<V>>,
}

/// One configuration's part.
struct Layers<V> {
    equity1: [Nine<V>; FAMILIES],
    equity2: [V; FAMILIES],
    /// [family][1 + bar], row 0 before the tile.
    q: [Vec<V>; FAMILIES],
    up: Vec<V>,
    down: Vec<V>,
    rise: V,
    /// The cutout lies behind, in every active lane.
    past_cutout: bool,
}

impl<'a, V: Vector> Group<'a, V> {
    pub fn new(stream: &'a Stream, members: &'a [Member<'a>], prices: Prices<'a>) -> Self {
        let most = tile_bars(stream.history, prices.n_bars);
        let zero = V::splat(0.0);
        let rows = stream.history + most;
        let mut windows: Vec<Window<V>> = Vec::new();
        let mut window_of = [0; FAMILIES + 1];
        let lengths = [EMA, HMA, WMA, DEMA, LSMA, KAMA].map(|family| stream.shortest(family));
        for (index, length) in lengths.into_iter().chain([lengths[HMA] / 2]).enumerate() {
            window_of[index] = windows.iter().position(|w| w.length == length).unwrap_or(windows.len());
            if window_of[index] == windows.len() {
                windows.push(Window::new(length, most));
            }
        }
        let all: Vec<usize> = windows.iter().map(|w| w.length).collect();
        let smooth = stream.smooth.into_iter().max().unwrap_or(1);
        let layers = |_| Layers {
            equity1: [[zero; LENGTHS]; FAMILIES],
            equity2: [zero; FAMILIES],
            q: std::array::from_fn(|_| vec![zero; 1 + most]),
            up: vec![zero; most],
            down: vec![zero; most],
            rise: zero,
            past_cutout: false,
        };
        Self {
            stream,
            members,
            prices,
            robustness: stream.check().unwrap_or(0),
            most,
            close: vec![zero; 1 + most],
            x: vec![zero; rows],
            change: vec![zero; rows],
            y: vec![[zero; LENGTHS]; smooth - 1 + most],
            recursive: [[zero; LENGTHS]; 4],
            side: [[zero; LENGTHS]; FAMILIES],
            sign: [[zero; LENGTHS]; FAMILIES],
            settled: [false; FAMILIES],
            sums: Doublings::new(&all, true, rows),
            change_sums: Doublings::new(&[stream.shortest(KAMA)], false, rows),
            windows,
            window_of,
            noise: Window::new(stream.shortest(KAMA), most),
            low: vec![zero; most],
            high: vec![zero; most],
            returns: vec![zero; most],
            growth: vec![zero; most],
            signs: vec![[zero; LENGTHS]; 1 + most],
            averages: vec![[zero; LENGTHS]; most],
            kept1: vec![[zero; LENGTHS]; most],
            kept2: vec![[zero; FAMILIES]; most],
            signal: vec![zero; most],
            layers: members.iter().map(layers).collect(),
        }
    }

    /// Advance symbols `first ..` by `counts` present bars each, from `bars` bars on.
    pub fn advance(
        &mut self,
        first: usize,
        counts: &[usize],
        bars: &[i64],
        values: &mut [f64],
        equities: &mut [f64],
        outputs: &mut Outputs,
    ) {
        self.blank_missing(first, counts, outputs);
        let mut lanes = Lanes::new(self.prices, first, counts, bars);
        if lanes.next_tile(self.most) == 0 {
            return;
        }
        self.load(first, counts.len(), values, equities);
        while lanes.next_tile(self.most) > 0 {
            self.tile(&mut lanes, outputs);
            let finished = lanes.step();
            if !finished.is_empty() {
                self.save(first, &finished, values, equities);
            }
        }
    }

    /// Missing bars are NaN in every output: whole rows, before the present bars are written.
    fn blank_missing(&self, first: usize, counts: &[usize], outputs: &mut Outputs) {
        let (symbols, bars) = (self.prices.n_symbols, self.prices.n_bars);
        for (lane, _) in counts.iter().enumerate().filter(|(_, count)| **count < bars) {
            for (values, array) in outputs.each() {
                for member in self.members {
                    let row = (member.config * symbols + first + lane) * values * bars;
                    array[row..][..values * bars].fill(f64::NAN);
                }
            }
        }
    }

    /// The rows of the stream's state, in slot order.
    fn each_value(&mut self, mut visit: impl FnMut(&mut V)) {
        visit(&mut self.close[0]);
        self.x[..self.stream.history].iter_mut().for_each(&mut visit);
        let y_first = self.y_first();
        for (j, smooth) in self.stream.smooth.iter().enumerate() {
            self.y[y_first + 1 - smooth..y_first].iter_mut().for_each(|row| visit(&mut row[j]));
        }
        self.recursive.iter_mut().flatten().for_each(&mut visit);
        self.side.iter_mut().flatten().for_each(&mut visit);
        self.sign.iter_mut().flatten().for_each(&mut visit);
    }

    /// The rows of one configuration's equities, in slot order.
    fn each_equity(layers: &mut Layers<V>, mut visit: impl FnMut(&mut V)) {
        layers.equity1.iter_mut().flatten().for_each(&mut visit);
        layers.equity2.iter_mut().for_each(&mut visit);
        layers.q.iter_mut().for_each(|q| visit(&mut q[0]));
    }

    fn y_first(&self) -> usize {
        self.y.len() - self.most
    }

    fn load(&mut self, first: usize, lanes: usize, values: &[f64], equities: &[f64]) {
        let symbols = self.prices.n_symbols;
        let read = |row: usize, from: &[f64], to: &mut V| {
            let mut number = [V::splat(1.0)]; // harmless in lanes without a symbol
            V::numbers_mut(&mut number)[..lanes].copy_from_slice(&from[row * symbols + first..][..lanes]);
            *to = number[0];
        };
        let mut row = 0;
        self.each_value(|value| {
            read(row, values, value);
            row += 1;
        });
        for (member, layers) in self.members.iter().zip(&mut self.layers) {
            let mut row = member.config * EQUITY_SLOTS;
            Self::each_equity(layers, |value| {
                read(row, equities, value);
                row += 1;
            });
            layers.past_cutout = false;
        }
        self.settled = [false; FAMILIES];
    }

    fn save(&mut self, first: usize, lanes: &[usize], values: &mut [f64], equities: &mut [f64]) {
        let symbols = self.prices.n_symbols;
        let all = lanes.len() == V::LANES;
        let write = |row: usize, from: &V, to: &mut [f64]| {
            let (from, to) = (V::numbers(std::slice::from_ref(from)), &mut to[row * symbols + first..]);
            if all {
                to[..V::LANES].copy_from_slice(from);
            } else {
                lanes.iter().for_each(|&lane| to[lane] = from[lane]);
            }
        };
        let mut row = 0;
        self.each_value(|value| {
            write(row, value, values);
            row += 1;
        });
        for (member, layers) in self.members.iter().zip(&mut self.layers) {
            let mut row = member.config * EQUITY_SLOTS;
            Self::each_equity(layers, |value| {
                write(row, value, equities);
                row += 1;
            });
        }
    }

    /// The next `lanes.n` bars: averages and signs family by family, each straight into equities.
    fn tile(&mut self, lanes: &mut Lanes, outputs: &mut Outputs) {
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
        let last = member.growth.len() as i64 - 1;
        let growth = V::numbers_mut(&mut self.growth[..n]);
        for (lane, t) in lanes.active() {
            let start = t - member.cutout - member.growth_start;
            for (bar, g) in growth.iter_mut().skip(lane).step_by(V::LANES).enumerate() {
                *g = member.growth[(start + bar as i64).clamp(0, last) as usize];
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
