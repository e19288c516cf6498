//! One stream of every group of symbols, advanced where it lies.

use super::Followed;
use super::places::{Places, ROOM};
use crate::averages::Rows;
use crate::equities::{Cutout, Factors, Layer1, Layer2, Rise, bound_stays_below};
use crate::families::{FamilySums, Inputs, signs_of};
use crate::signs::{Crossing, GENERAL, SETTLED_SIDES, band};
use crate::stream::{AVERAGES, EQUITY_SLOTS, FAMILIES, KAMA, LENGTHS, Stream};
use crate::sums::Scratch;
use crate::vector::{Pass, Vector};

type Nine<T> = [T; LENGTHS];

/// One stream of all groups.
pub struct Groups<V> {
    pub stream: Stream,
    robustness: usize,
    pub members: Vec<Followed>,
    /// The first member of each distinct layer 1.
    leaders: Vec<usize>,
    places: Places,
    /// [group][places.stride].
    rows: Vec<V>,
    /// [group][2][AVERAGES][lane]: sides, then signals.
    marks: Vec<i8>,
    /// [group]: how far its histories have grown into their room.
    at: Vec<usize>,
    /// [group]: all averages defined, all signals nonzero, every cutout past, of every symbol.
    settled: Vec<bool>,
    /// [group][layer 1]: no equity of its families is higher, up to rounding.
    bounds: Vec<f64>,
    work: Work<V>,
}

/// A bar of a group.
pub struct Bar<'a, V> {
    pub close: V,
    /// Bar numbers by lane, as a vector and as they are.
    pub t: V,
    pub bars: &'a [i64],
    /// A bit for each lane that has a bar.
    pub present: u32,
    /// Has every symbol of the group one?
    pub complete: bool,
}

/// What a bar needs besides a group's rows.
struct Work<V> {
    close: [V; 2],
    low: [V; 1],
    high: [V; 1],
    returns: [V; 1],
    growth: [V; 1],
    up: [V; 1],
    down: [V; 1],
    change: Vec<V>,
    sums: FamilySums<V>,
    scratch: Scratch<V>,
    side: [Nine<V>; FAMILIES],
    sign: [Nine<V>; FAMILIES],
    signs: [[Nine<V>; 2]; FAMILIES],
    averages: [Nine<V>; 1],
    kept1: [Nine<V>; 1],
    kept2: [[V; FAMILIES]; 1],
    signal: [V; 1],
    /// Of a group in which some lanes have no bar: its rows and marks before.
    before: Vec<V>,
    marks_before: Vec<i8>,
}

impl<V: Vector> Groups<V> {
    pub fn new(stream: Stream, members: Vec<Followed>, symbols: usize) -> Self {
        let zero = V::splat(0.0);
        let mut leaders = Vec::new();
        for (m, member) in members.iter().enumerate() {
            if member.layer1 == leaders.len() {
                leaders.push(m);
            }
        }
        let places = Places::of(&stream, leaders.len(), members.len());
        let groups = symbols.div_ceil(V::LANES);
        let work = Work {
            close: [zero; 2],
            low: [zero; 1],
            high: [zero; 1],
            returns: [zero; 1],
            growth: [zero; 1],
            up: [zero; 1],
            down: [zero; 1],
            change: vec![zero; stream.history + 1],
            sums: FamilySums::new(&stream, 1),
            scratch: Scratch::new(stream.history),
            side: [[zero; LENGTHS]; FAMILIES],
            sign: [[zero; LENGTHS]; FAMILIES],
            signs: [[[zero; LENGTHS]; 2]; FAMILIES],
            averages: [[zero; LENGTHS]; 1],
            kept1: [[zero; LENGTHS]; 1],
            kept2: [[zero; FAMILIES]; 1],
            signal: [zero; 1],
            before: vec![zero; places.stride],
            marks_before: vec![0; 2 * AVERAGES * V::LANES],
        };
        Self {
            robustness: stream.check().unwrap_or(0),
            stream,
            members,
            bounds: vec![f64::INFINITY; groups * leaders.len()],
            leaders,
            places,
            rows: vec![V::splat(1.0); groups * places.stride], // harmless in lanes without a symbol
            marks: vec![0; groups * 2 * AVERAGES * V::LANES],
            at: vec![0; groups],
            settled: vec![false; groups],
            work,
        }
    }

    /// Read the state of all groups from its common form, or write it there.
    pub fn exchange(&mut self, values: &mut [f64], equities: &mut [f64], symbols: usize, read: bool) {
        let places = self.places;
        for group in 0..self.at.len() {
            self.move_back(group);
            let first = group * V::LANES;
            for lane in 0..V::LANES.min(symbols - first) {
                let rows = V::numbers_mut(&mut self.rows[group * places.stride..][..places.stride]);
                let mut cell = |table: &mut [f64], row: usize, place: usize| {
                    let own = &mut rows[place * V::LANES + lane];
                    let theirs = &mut table[row * symbols + first + lane];
                    if read { *own = *theirs } else { *theirs = *own }
                };
                for (row, place) in places.values(&self.stream).enumerate() {
                    cell(values, row, place);
                }
                for (m, member) in self.members.iter().enumerate() {
                    for (i, place) in places.equities(member.layer1, m).enumerate() {
                        cell(equities, member.config * EQUITY_SLOTS + i, place);
                    }
                }
                for i in 0..2 * AVERAGES {
                    let own = &mut self.marks[(group * 2 * AVERAGES + i) * V::LANES + lane];
                    let theirs = &mut values[(self.stream.side_slot() + i) * symbols + first + lane];
                    if read { *own = *theirs as i8 } else { *theirs = f64::from(*own) }
                }
            }
        }
    }

    /// Move a group's histories back to the beginning of their room.
    fn move_back(&mut self, group: usize) {
        let (places, at) = (self.places, self.at[group]);
        let rows = &mut self.rows[group * places.stride..][..places.stride];
        rows.copy_within(places.x + at..places.x + at + places.history, places.x);
        let y = places.y + at * LENGTHS;
        rows.copy_within(y..y + places.y_first * LENGTHS, places.y);
        self.at[group] = 0;
    }

    /// One bar of a group; `signal` is told each configuration's.
    pub fn bar(&mut self, group: usize, bar: &Bar<V>, signal: impl FnMut(usize, V)) {
        if self.at[group] == ROOM {
            self.move_back(group);
        }
        self.settled[group] = self.settled[group] || self.settles(group, bar.bars);
        if !bar.complete {
            self.remember(group);
        }
        let at = self.at[group];
        V::enter(Advance { groups: self, group, bar, signal });
        self.at[group] = at + 1;
        if !bar.complete {
            self.restore(group, bar.present, at);
        }
    }

    /// Does the group need no second look from here on?
    fn settles(&self, group: usize, bars: &[i64]) -> bool {
        let first = self.stream.first.iter().flatten().fold(0.0, |a: f64, &b| a.max(b));
        let longest = self.stream.lengths[KAMA].into_iter().max().unwrap_or(0) as i64;
        let warm = self.members.iter().map(|member| member.cutout).fold(longest.max(first as i64), i64::max);
        let size = AVERAGES * V::LANES;
        let signs = &self.marks[(2 * group + 1) * size..][..size];
        bars.iter().all(|&t| t > warm)
            && signs.chunks(V::LANES).all(|lanes| lanes[..bars.len()].iter().all(|&sign| sign != 0))
    }

    fn remember(&mut self, group: usize) {
        let (stride, marks) = (self.places.stride, self.work.marks_before.len());
        self.work.before.copy_from_slice(&self.rows[group * stride..][..stride]);
        self.work.marks_before.copy_from_slice(&self.marks[group * marks..][..marks]);
    }

    /// Lanes without a bar become what they were; their histories stand one row later now.
    fn restore(&mut self, group: usize, present: u32, at: usize) {
        let places = self.places;
        let rows = V::numbers_mut(&mut self.rows[group * places.stride..][..places.stride]);
        let before = V::numbers(&self.work.before);
        let size = self.work.marks_before.len();
        let marks = &mut self.marks[group * size..][..size];
        for lane in (0..V::LANES).filter(|lane| present >> lane & 1 == 0) {
            let mut copy = |from: usize, to: usize, n: usize| {
                for row in 0..n {
                    rows[(to + row) * V::LANES + lane] = before[(from + row) * V::LANES + lane];
                }
            };
            copy(0, 0, 1);
            copy(places.x + at, places.x + at + 1, places.history);
            copy(places.y + at * LENGTHS, places.y + (at + 1) * LENGTHS, places.y_first * LENGTHS);
            copy(places.recursive, places.recursive, places.stride - places.recursive);
            for mark in (lane..size).step_by(V::LANES) {
                marks[mark] = self.work.marks_before[mark];
            }
        }
    }

    /// The state machine itself, where the group's rows lie.
    #[inline(always)]
    fn advance(&mut self, group: usize, bar: &Bar<V>, mut signal: impl FnMut(usize, V)) {
        let (close, t) = (bar.close, bar.t);
        let (places, work, stream) = (self.places, &mut self.work, &self.stream);
        let (history, at, marks) = (places.history, self.at[group], 2 * AVERAGES * V::LANES);
        let rows = &mut self.rows[group * places.stride..][..places.stride];
        let marks = &mut self.marks[group * marks..][..marks];
        let settled = self.settled[group];
        let (shown, rest) = rows.split_at_mut(places.y);
        let (y, rest) = rest.split_at_mut(places.recursive - places.y);
        let (recursive, rest) = rest.split_at_mut(places.equity1 - places.recursive);
        let (equity1, rest) = rest.split_at_mut(places.q - places.equity1);
        let (q, equity2) = rest.split_at_mut(places.equity2 - places.q);

        work.close = [shown[0], close];
        shown[0] = close;
        shown[places.x + at + history] = close;
        let x = &shown[places.x + at..][..history + 1];
        Begun { x, marks, settled, work }.run();
        work.sums.fill_last(x, &work.change, &mut work.scratch);
        let (recursive, _) = recursive.as_chunks_mut::<LENGTHS>();
        let recursive: &mut [Nine<V>; 4] = recursive.try_into().expect("36 rows");
        let y = &mut y.as_chunks_mut::<LENGTHS>().0[at..][..places.y_first + 1];
        for family in 0..FAMILIES {
            work.signs[family][0] = work.sign[family];
            let crossing = Crossing {
                low: &work.low,
                high: &work.high,
                t,
                first: &stream.first[family],
                side: &mut work.side[family],
                signs: &mut work.signs[family],
                averages: &mut work.averages,
            };
            let inputs = Inputs {
                stream,
                x: Rows { rows: x, first: history },
                change: Rows { rows: &work.change, first: history },
                window: work.sums.of(family, 1),
                half: work.sums.of(FAMILIES, 1),
                noise: work.sums.noise(1),
                y: &mut y[..],
                y_first: places.y_first,
                recursive: &mut *recursive,
            };
            if settled {
                signs_of::<V, SETTLED_SIDES>(family, self.robustness, inputs, crossing);
            } else {
                signs_of::<V, GENERAL>(family, self.robustness, inputs, crossing);
            }
            work.sign[family] = work.signs[family][1];
        }
        Ended { marks, side: &work.side, sign: &work.sign }.run();

        let equity1 = equity1.as_chunks_mut::<LENGTHS>().0;
        let q = q.as_chunks_mut::<FAMILIES>().0;
        let equity2 = equity2.as_chunks_mut::<FAMILIES>().0;
        let bounds = &mut self.bounds[group * self.leaders.len()..][..self.leaders.len()];
        for (i, &leader) in self.leaders.iter().enumerate() {
            let member = &self.members[leader];
            for (growth, &t) in V::numbers_mut(&mut work.growth).iter_mut().zip(bar.bars) {
                *growth = member.growth_at(t);
            }
            let mut rise = V::splat(1.0);
            V::enter(Rise {
                returns: &work.returns,
                growth: &work.growth,
                keep: member.keep,
                up: &mut work.up,
                down: &mut work.down,
                rise: &mut rise,
            });
            let quick =
                settled && bound_stays_below(&mut bounds[i], rise, &equity1[i * FAMILIES..][..FAMILIES]);
            let factors = || Factors { up: &work.up, down: &work.down, keep: member.keep };
            let cutout = Cutout { t, at: member.cutout as f64 };
            let mut both = [[V::splat(0.0); 2]; FAMILIES];
            for family in 0..FAMILIES {
                let mut now = [V::splat(0.0)];
                let (signs, e) = (&work.signs[family], &mut equity1[i * FAMILIES + family]);
                let (factors, kept) = (factors(), &mut work.kept1[..]);
                if quick {
                    V::enter(Layer1::<V, false> { factors, cutout, signs, e, q: &mut now, kept });
                } else {
                    V::enter(Layer1::<V, true> { factors, cutout, signs, e, q: &mut now, kept });
                }
                both[family] = [q[i][family], now[0]];
                q[i][family] = now[0];
            }
            for (m, member) in self.members.iter().enumerate().filter(|(_, member)| member.layer1 == i) {
                let (factors, config) = (factors(), member.config);
                let (q, e) = (both.each_ref().map(|q| &q[..]), &mut equity2[m]);
                let (to, kept) = (&mut work.signal[..], &mut work.kept2[..]);
                if settled {
                    V::enter(Layer2::<V, false> { factors, cutout, member, q, e, signal: to, kept });
                } else {
                    V::enter(Layer2::<V, true> { factors, cutout, member, q, e, signal: to, kept });
                }
                signal(config, work.signal[0]);
            }
        }
    }
}

/// All passes of a bar as one, so that the small ones are not calls.
struct Advance<'a, 'b, V, F> {
    groups: &'a mut Groups<V>,
    group: usize,
    bar: &'a Bar<'b, V>,
    signal: F,
}

impl<V: Vector, F: FnMut(usize, V)> Pass<V> for Advance<'_, '_, V, F> {
    #[inline(always)]
    fn run(self) {
        self.groups.advance(self.group, self.bar, self.signal);
    }
}

/// What a bar's prices alone decide, and the marks as numbers.
struct Begun<'a, V> {
    x: &'a [V],
    marks: &'a [i8],
    /// A settled group needs no sides: it leaves them behind, and its signals say enough.
    settled: bool,
    work: &'a mut Work<V>,
}

impl<V: Vector> Pass<V> for Begun<'_, V> {
    #[inline(always)]
    fn run(self) {
        let Self { x, marks, settled, work } = self;
        let [before, now] = work.close;
        (work.low[0], work.high[0]) = band(now);
        work.returns[0] = (now - before) / before;
        let n = work.change.len();
        let (x, change) = (&x[..n], &mut work.change[..n]);
        for i in 1..n {
            change[i] = (x[i] - x[i - 1]).abs();
        }
        let (sides, signs) = marks.split_at(AVERAGES * V::LANES);
        if !settled {
            let to = V::numbers_mut(work.side.as_flattened_mut()).iter_mut().zip(sides);
            to.for_each(|(number, mark)| *number = f64::from(*mark));
        }
        let to = V::numbers_mut(work.sign.as_flattened_mut()).iter_mut().zip(signs);
        to.for_each(|(number, mark)| *number = f64::from(*mark));
    }
}

/// The marks after a bar.
struct Ended<'a, V> {
    marks: &'a mut [i8],
    side: &'a [Nine<V>; FAMILIES],
    sign: &'a [Nine<V>; FAMILIES],
}

impl<V: Vector> Pass<V> for Ended<'_, V> {
    #[inline(always)]
    fn run(self) {
        let (sides, signs) = self.marks.split_at_mut(AVERAGES * V::LANES);
        for (marks, numbers) in [(sides, self.side), (signs, self.sign)] {
            for (mark, number) in marks.iter_mut().zip(V::numbers(numbers.as_flattened())) {
                // Of 1.0, -1.0 and 0.0, by their bits: a conversion from float64 to bytes is not vectorised.
                let bits = number.to_bits();
                *mark = (bits >> 56 & 1).wrapping_sub(bits >> 62 & 2) as i8;
            }
        }
    }
}
