//! A group of symbols, one to a lane, through a block of bars, a tile at a time.

mod tile;

use crate::advance::{Outputs, Prices};
use crate::lanes::Lanes;
use crate::stream::{DEMA, EMA, EQUITY_SLOTS, FAMILIES, HMA, KAMA, LENGTHS, LSMA, Member, Stream, WMA};
use crate::sums::{Doublings, Window};
use crate::vector::Vector;

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
                windows.push(Window::new(length, true, most));
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
            noise: Window::new(stream.shortest(KAMA), false, most),
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
}
