//! A group of symbols, one to a lane, through a block of bars, a tile at a time.

mod tile;

use crate::advance::{Outputs, Prices};
use crate::families::FamilySums;
use crate::lanes::Lanes;
use crate::stream::{EQUITY_SLOTS, FAMILIES, LENGTHS, Member, Stream};
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
    sums: FamilySums<V>,
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
    firsts: Vec<First<V>>,
    /// [member]: layer-2 equities.
    seconds: Vec<[V; FAMILIES]>,
}

/// One layer 1, for every member that shares it.
struct First<V> {
    /// The first member that has it.
    leader: usize,
    equity1: [Nine<V>; FAMILIES],
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
        let smooth = stream.smooth.into_iter().max().unwrap_or(1);
        let first = |leader| First {
            leader,
            equity1: [[zero; LENGTHS]; FAMILIES],
            q: std::array::from_fn(|_| vec![zero; 1 + most]),
            up: vec![zero; most],
            down: vec![zero; most],
            rise: zero,
            past_cutout: false,
        };
        let mut firsts: Vec<First<V>> = Vec::new();
        for (m, member) in members.iter().enumerate() {
            if member.layer1 == firsts.len() {
                firsts.push(first(m));
            }
        }
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
            sums: FamilySums::new(stream, most),
            low: vec![zero; most],
            high: vec![zero; most],
            returns: vec![zero; most],
            growth: vec![zero; most],
            signs: vec![[zero; LENGTHS]; 1 + most],
            averages: vec![[zero; LENGTHS]; most],
            kept1: vec![[zero; LENGTHS]; most],
            kept2: vec![[zero; FAMILIES]; most],
            signal: vec![zero; most],
            firsts,
            seconds: vec![[zero; FAMILIES]; members.len()],
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
    fn each_equity(first: &mut First<V>, second: &mut [V; FAMILIES], mut visit: impl FnMut(&mut V)) {
        first.equity1.iter_mut().flatten().for_each(&mut visit);
        second.iter_mut().for_each(&mut visit);
        first.q.iter_mut().for_each(|q| visit(&mut q[0]));
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
        for (member, second) in self.members.iter().zip(&mut self.seconds) {
            let mut row = member.config * EQUITY_SLOTS;
            Self::each_equity(&mut self.firsts[member.layer1], second, |value| {
                read(row, equities, value);
                row += 1;
            });
        }
        self.firsts.iter_mut().for_each(|first| first.past_cutout = false);
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
        for (member, second) in self.members.iter().zip(&mut self.seconds) {
            let mut row = member.config * EQUITY_SLOTS;
            Self::each_equity(&mut self.firsts[member.layer1], second, |value| {
                write(row, value, equities);
                row += 1;
            });
        }
    }
}
