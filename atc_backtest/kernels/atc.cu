// The GPU kernel: a warp a series, 32 bars at a time; protocol.py has the order of operations.
//
// Work goes in phases. In some a lane is a bar of the tile (windows, sums over nine equities), in others an average or
// an equity that goes through the tile's bars one after another. What a phase leaves behind lies in the warp's
// workspace, so no value is exchanged between lanes in any other way, and a lane's loop may as well be a loop over
// lanes: that is how a CPU runs this very file (HOST), and how tests compare it with the reference bit for bit.
//
// Compiled per robustness and profile (OFFSETS, PINE), and where workspaces lie: FAR, in the device's memory, or in
// shared memory. Lengths are data, so that a sweep over them compiles nothing.
// To be compiled without contraction to fused multiply-adds (--fmad=false, -ffp-contract=off).

#ifdef HOST
#include <cmath>
#include <cstring>
#define KERNEL extern "C" void
#define DEVICE static inline
#define LANES(i, n) for (int i = 0; i < (n); ++i)
#define SYNC()
#define READ(table, i) (table)[i]
#define UNROLLED
#define ROLLED
#define RINT(v) std::nearbyint(v)
#define ABS(v) std::fabs(v)
#define NOT_A_NUMBER __builtin_nan("")
static inline int upper_half(double v) {
    long long bits;
    std::memcpy(&bits, &v, sizeof bits);
    return (int)(bits >> 32);
}
#else
#define KERNEL extern "C" __global__ void __launch_bounds__(32, 12)
#define DEVICE __device__ __forceinline__
#define LANES(i, n) for (int i = threadIdx.x; i < (n); i += 32)
#define SYNC() __syncwarp()
#define READ(table, i) __ldg((table) + (i))
#define UNROLLED _Pragma("unroll")
#define ROLLED _Pragma("unroll 1")
#define RINT(v) rint(v)
#define ABS(v) fabs(v)
#define NOT_A_NUMBER __longlong_as_double(0x7ff8000000000000ULL)
#define upper_half(v) __double2hiint(v)
#endif

typedef long long I64;

constexpr int TILE = 32;
constexpr int ROW = TILE + 1;  // of rows that lanes go along side by side: no two of them in one bank of memory
constexpr int PART = TILE / 2, PART_ROW = PART + 1;
constexpr int NINE = 9, FAMILIES = 6, AVERAGES = NINE * FAMILIES;
constexpr int EMA = 0, HMA = 1, WMA = 2, DEMA = 3, LSMA = 4, KAMA = 5;
constexpr int SLOTS = AVERAGES + 2 * FAMILIES;
constexpr int LAYERS = 2, MEMBERS = 4;  // layers 1, and members of them, that are in the workspace at a time
constexpr int RULES = 3;                // what an equity is multiplied with when short, out and long
constexpr double ABOVE = 1 - 1e-12, BELOW = 1 + 1e-12;
constexpr double KAMA_SPAN = 0.666 - 0.064, KAMA_SLOW = 0.064;
constexpr double FLOOR = 0.25, CEILING = 1e150;
constexpr int FLOOR_UPPER = 0x3FD00000;   // the upper half of its bits; the lower one is 0
constexpr int NEAR_CEILING = 0x5F000000;  // of 2^497, which is less

// OFFSETS: o1, o2, o3, o4. The nine lengths by size, as indices into the summing order (L0, +o ascending, -o ascending).
constexpr int OFFSET[4] = {OFFSETS};
constexpr int ASCENDING[NINE] = {8, 7, 6, 5, 0, 1, 2, 3, 4};
constexpr int BEYOND[NINE] = {0,
                              OFFSET[3] - OFFSET[2],
                              OFFSET[3] - OFFSET[1],
                              OFFSET[3] - OFFSET[0],
                              OFFSET[3],
                              OFFSET[3] + OFFSET[0],
                              OFFSET[3] + OFFSET[1],
                              OFFSET[3] + OFFSET[2],
                              OFFSET[3] + OFFSET[3]};

// What a stream comes to; pointers to [6 x 9] by family and length in summing order, HMA's own to [9].
struct Stream {
    const double *alpha, *sma, *wma, *lsma_w, *lsma_s, *hma_half, *hma_smooth;
    const I64 *lengths, *first, *smooth;
    const I64 *shortest;   // [7] each family's shortest length, then the shortest half of HMA's
    const I64 *window;     // [7] which of `windows` that is
    const I64 *windows;    // [n_windows] distinct
    I64 n_windows, levels, history, y_rows;  // y_rows: longest smoothing - 1
    I64 y_slots, width;                      // y values kept in the state, all that is kept
    I64 settled;                             // from this t on every average is defined and nothing begins
};

// The configurations that share it: [members], those of one layer 1 side by side, a layer's from start[layer] on.
struct Members {
    const I64 *config, *layer1, *start, *cutout, *up, *down, *growth_row, *growth_start, *growth_last;
    const double *keep, *weights, *growth;
    I64 members, layers, growth_width;
};

// A block of prices and the outputs asked for (null: not), all [.., bars] with `stride` bars between rows.
// State: bars seen [symbols], values [symbols, width], equities [symbols, configurations, SLOTS].
struct Block {
    const double *close, *source;
    I64 *bars;
    double *values, *equities;
    I64 symbols, n_bars;
    double *signal, *layer1, *equity2, *average, *sign, *equity1;
};

// The warp's workspace: what stays from tile to tile or phase to phase, then a part that first averages and then
// equities use. Doubles, then bytes.
struct Work {
    double *x;                   // [history + TILE]
    double *y;                   // [9][y_rows + TILE]
    double *close;               // [1 + TILE], the one before the tile first
    double *returns;             // [TILE]
    I64 *at;                     // [TILE] places in the block of the tile's bars
    signed char *sign;           // [54][ROW] the one before the tile first; sides until they have become signals

    double *plain, *weighted, *noise;  // [levels][history + TILE], sums of 2, 4, .. values
    double *change;                    // [history + TILE]
    double *s, *w;                     // [n_windows][TILE]
    double *kama;                      // [9][ROW] squares of KAMA's constants
    double *low, *high;                // [TILE] around the close: what is between is neither above nor below
    double *seed;                      // [18][ROW] what EMA and DEMA start from, in place of plain, ..
    double *moved;                     // what moves towards the beginning of its row, in place of plain, ..

    double *equity;              // [54][PART_ROW] the one before first
    double *vote;                // [MEMBERS x 6][ROW] equities of layer 2, in place of equity
    double *q;                   // [LAYERS x 6][ROW] the one before the tile first
    signed char *side;           // [LAYERS x 6][ROW] of q
    double *factor;              // [LAYERS][TILE][RULES]
};

DEVICE I64 larger(I64 a, I64 b) { return a > b ? a : b; }

DEVICE Work work_of(char *memory, const Stream &stream) {
    const I64 rows = stream.history + TILE;
    double *next = (double *)memory;
    Work work;
#define TAKE(name, count) work.name = next, next += (count)
    TAKE(x, rows);
    TAKE(y, NINE * (stream.y_rows + TILE));
    TAKE(close, 1 + TILE);
    TAKE(returns, TILE);
    double *shared = next;
    TAKE(plain, stream.levels * rows);
    TAKE(weighted, stream.levels * rows);
    TAKE(noise, stream.levels * rows);
    TAKE(change, rows);
    work.seed = work.moved = shared;
    next = shared + larger(next - shared, 2 * NINE * ROW);
    TAKE(s, stream.n_windows * TILE);
    TAKE(w, stream.n_windows * TILE);
    TAKE(kama, NINE * ROW);
    TAKE(low, TILE);
    TAKE(high, TILE);
    double *averaged = next;
    next = shared;
    work.vote = next;
    TAKE(equity, AVERAGES * PART_ROW);
    TAKE(q, LAYERS * FAMILIES * ROW);
    TAKE(factor, LAYERS * TILE * RULES);
    work.side = (signed char *)next;
    next += (LAYERS * FAMILIES * ROW + 7) / 8;
#undef TAKE
    next = shared + larger(averaged - shared, next - shared);
    work.at = (I64 *)next;
    work.sign = (signed char *)(work.at + TILE);
    return work;
}

// Where in the tile that begins at t0 bar t is: -1 before, TILE behind it.
DEVICE int in_tile(I64 t, I64 t0) { return t < t0 ? -1 : t - t0 < TILE ? (int)(t - t0) : TILE; }

// The places of up to TILE bars from `from` on that are there; how many.
DEVICE int present(const Block &block, I64 symbol, I64 from, Work &work) {
    const double *close = block.close + symbol * block.n_bars;
    const int n = (int)(block.n_bars - from < TILE ? block.n_bars - from : TILE);
#ifdef HOST
    int found = 0;
    for (int i = 0; i < n; ++i)
        if (close[from + i] == close[from + i]) work.at[found++] = from + i;
    return found;
#else
    const int i = threadIdx.x;
    const bool is_there = i < n && close[from + i] == close[from + i];
    const unsigned mask = __ballot_sync(0xffffffffu, is_there);
    if (is_there) work.at[__popc(mask & ((1u << i) - 1u))] = from + i;
    SYNC();
    return __popc(mask);
#endif
}

// Prices of the tile's n bars: x and its changes behind the history, closes, returns.
DEVICE void take_prices(const Stream &stream, const Block &block, I64 symbol, int n, Work &work) {
    const double *close = block.close + symbol * block.n_bars;
    const double *source = block.source + symbol * block.n_bars;
    LANES(i, n) {
        const double now = READ(close, work.at[i]);
        work.close[1 + i] = now;
        work.low[i] = now * ABOVE;
        work.high[i] = now * BELOW;
        work.x[stream.history + i] = READ(source, work.at[i]);
    }
    SYNC();
    LANES(i, n) work.returns[i] = (work.close[1 + i] - work.close[i]) / work.close[i];
    LANES(row, (int)stream.history + n) if (row) work.change[row] = ABS(work.x[row] - work.x[row - 1]);
    SYNC();
}

// Sums of 2, 4, .. values, each from the level below; rows that reach before the history are never read.
DEVICE void double_sums(const Stream &stream, int n, Work &work) {
    const I64 rows = stream.history + TILE;
    for (I64 level = 0; level < stream.levels; ++level) {
        const int half = 1 << level;
        const double *t = level ? work.plain + (level - 1) * rows : work.x;
        const double *w = level ? work.weighted + (level - 1) * rows : work.x;
        const double *c = level ? work.noise + (level - 1) * rows : work.change;
        LANES(before, (int)stream.history + n - half) {
            const int row = before + half;
            const double now = t[row];
            work.plain[level * rows + row] = now + t[before];
            work.weighted[level * rows + row] = (w[row] + (double)half * now) + w[before];
            work.noise[level * rows + row] = c[row] + c[before];
        }
        SYNC();
    }
}

// S and W of the shortest windows, from their powers of two, newest first.
DEVICE void window_sums(const Stream &stream, int n, Work &work) {
    const I64 rows = stream.history + TILE;
    LANES(task, (int)stream.n_windows * TILE) {
        const int window = task / TILE, i = task % TILE;
        if (i < n) {
            const I64 length = READ(stream.windows, window);
            I64 row = stream.history + i, rest = length;
            double s = 0.0, w = 0.0;
            for (int level = (int)stream.levels; level >= 0; --level) {
                const I64 power = (I64)1 << level;
                if (!(length & power)) continue;
                const double t = level ? work.plain[(level - 1) * rows + row] : work.x[row];
                double part = level ? work.weighted[(level - 1) * rows + row] : work.x[row];
                const bool is_newest = rest == length;
                rest -= power;
                if (rest) part = part + (double)rest * t;
                s = is_newest ? t : s + t;
                w = is_newest ? part : w + part;
                row -= power;
            }
            work.s[task] = s;
            work.w[task] = w;
        }
    }
    SYNC();
}

DEVICE void put(double *output, const Members &members, const Block &block, I64 symbol, I64 per_symbol, I64 row,
                I64 at, double value) {
    if (output)
        ROLLED for (I64 m = 0; m < members.members; ++m)
            output[((members.config[m] * block.symbols + symbol) * per_symbol + row) * block.n_bars + at] = value;
}

// An average at bar i: where it stands to the close. Where not all are SETTLED, it is defined from bar `first` on.
template <bool SETTLED>
DEVICE void put_average(const Members &members, const Block &block, Work &work, I64 symbol, int average, int first,
                        int i, double value) {
    const int side = value < work.low[i] ? 1 : value > work.high[i] ? -1 : 0;
    const bool is_defined = SETTLED || i >= first;
    work.sign[average * ROW + 1 + i] = is_defined ? side : 0;
    put(block.average, members, block, symbol, AVERAGES, average, work.at[i], is_defined ? value : NOT_A_NUMBER);
}

// The bar of the tile at t0 from which on an average is defined.
template <bool SETTLED>
DEVICE int first_of(const Stream &stream, int average, I64 t0) {
    return SETTLED ? -1 : in_tile(READ(stream.first, average), t0);
}

// WMA and LSMA, and HMA of pine (an SMA): lanes are bars, each longer window by steps.
template <bool SETTLED>
DEVICE void windowed(const Stream &stream, const Members &members, const Block &block, Work &work, I64 symbol,
                     int family, int n, I64 t0) {
    const int window = (int)READ(stream.window, family) * TILE, shortest = (int)READ(stream.shortest, family);
    LANES(i, n) {
        const double *oldest = work.x + stream.history + i - shortest;
        double s = work.s[window + i], w = work.w[window + i];
        int done = 0;
        UNROLLED for (int k = 0; k < NINE; ++k) {
            UNROLLED for (; done < BEYOND[k]; ++done) {
                s = s + oldest[-done];
                w = w + s;
            }
            const int average = family * NINE + ASCENDING[k];
            double value;
            if (family == LSMA)
                value = w * READ(stream.lsma_w, average) - s * READ(stream.lsma_s, average);
            else
                value = family == HMA ? s * READ(stream.sma, average) : w * READ(stream.wma, average);
            put_average<SETTLED>(members, block, work, symbol, average, first_of<SETTLED>(stream, average, t0), i, value);
        }
    }
    SYNC();
}

// y = 2 WMA_h - WMA_L, then the WMA of its last values.
template <bool SETTLED>
DEVICE void hma(const Stream &stream, const Members &members, const Block &block, Work &work, I64 symbol, int n,
                I64 t0) {
    const int y_width = (int)stream.y_rows + TILE, y_rows = (int)stream.y_rows;
    const int window = (int)READ(stream.window, HMA) * TILE, half_window = (int)READ(stream.window, 6) * TILE;
    const int half = (int)READ(stream.shortest, 6);
    LANES(i, n) {
        const double *oldest = work.x + stream.history + i - READ(stream.shortest, HMA);
        const double *half_oldest = work.x + stream.history + i - half;
        double s = work.s[window + i], w = work.w[window + i];
        double hs = work.s[half_window + i], hw = work.w[half_window + i];
        int done = 0, half_done = 0;
        UNROLLED for (int k = 0; k < NINE; ++k) {
            UNROLLED for (; done < BEYOND[k]; ++done) {
                s = s + oldest[-done];
                w = w + s;
            }
            const int j = ASCENDING[k];
            const int half_beyond = (int)READ(stream.lengths, HMA * NINE + j) / 2 - half;
            for (; half_done < half_beyond; ++half_done) {
                hs = hs + half_oldest[-half_done];
                hw = hw + hs;
            }
            const double longer = w * READ(stream.wma, HMA * NINE + j);
            work.y[j * y_width + y_rows + i] = hw * READ(stream.hma_half, j) - longer;
        }
    }
    SYNC();
    LANES(task, NINE * TILE) {
        const int j = task / TILE, i = task % TILE, smooth = (int)READ(stream.smooth, j);
        if (i < n) {
            const double *y = work.y + j * y_width + y_rows + i;
            double s = y[0], v = s;
            for (int lag = 1; lag < smooth; ++lag) {
                s = s + y[-lag];
                v = v + s;
            }
            const int average = HMA * NINE + j;
            put_average<SETTLED>(members, block, work, symbol, average, first_of<SETTLED>(stream, average, t0), i,
                                 v * READ(stream.hma_smooth, j));
        }
    }
    SYNC();
}

// Squares of KAMA's constants, side by side.
DEVICE void kama_constants(const Stream &stream, Work &work, int n) {
    const I64 rows = stream.history + TILE;
    const int length = (int)READ(stream.shortest, KAMA);
    LANES(i, n) {
        const int now = (int)stream.history + i, oldest = now - length;
        int row = now, done = 0;
        bool is_newest = true;
        double noise = 0.0;
        for (int level = (int)stream.levels; level >= 0; --level) {
            const int power = 1 << level;
            if (!(length & power)) continue;
            const double part = level ? work.noise[(level - 1) * rows + row] : work.change[row];
            noise = is_newest ? part : noise + part;
            is_newest = false;
            row -= power;
        }
        UNROLLED for (int k = 0; k < NINE; ++k) {
            UNROLLED for (; done < BEYOND[k]; ++done) noise = noise + work.change[oldest - done];
            const double move = ABS(work.x[now] - work.x[oldest - BEYOND[k]]);
            const double ratio = noise > 0.0 ? move / noise : 0.0;
            const double c = ratio * KAMA_SPAN + KAMA_SLOW;
            work.kama[ASCENDING[k] * ROW + i] = c * c;
        }
    }
    SYNC();
}

// What EMA and DEMA start from.
DEVICE void seeds(const Stream &stream, Work &work, int n) {
    LANES(task, 2 * TILE) {
        const int which = task / TILE, i = task % TILE, family = which ? DEMA : EMA;
        if (i >= n) continue;
        const int now = (int)stream.history + i, oldest = now - (int)READ(stream.shortest, family);
        int done = 0;
        double s = work.s[READ(stream.window, family) * TILE + i];
        UNROLLED for (int k = 0; k < NINE; ++k) {
            UNROLLED for (; done < BEYOND[k]; ++done) s = s + work.x[oldest - done];
            const int j = ASCENDING[k];
            work.seed[(which * NINE + j) * ROW + i] = PINE ? work.x[now] : s * READ(stream.sma, family * NINE + j);
        }
    }
    SYNC();
}

// EMA, DEMA and KAMA: a lane an average, bar after bar, all in the same steps. `recursive`: the state's slots.
template <bool SETTLED>
DEVICE void recursions(const Stream &stream, const Members &members, const Block &block, Work &work, I64 symbol,
                       double *recursive, int n, I64 t0) {
    LANES(task, 3 * NINE) {
        const int which = task / NINE, j = task % NINE;
        const bool is_kama = which == 2, is_dema = which == 1;
        const int average = (is_kama ? KAMA : is_dema ? DEMA : EMA) * NINE + j;
        double *kept = recursive + (is_kama ? 3 * NINE : which * NINE) + j;
        double *second = is_dema ? kept + NINE : kept;  // no lane reads what another one writes
        const int first = first_of<SETTLED>(stream, average, t0);
        const int holds = is_kama ? in_tile(READ(stream.lengths, average), t0) : first + 1;  // bars before it goes on
        const int begins = !is_kama ? first : PINE ? -1 : in_tile(0, t0);
        const double *row = is_kama ? work.kama + j * ROW : work.seed + task * ROW;
        const double alpha = READ(stream.alpha, average);
        double e = *kept, e2 = *second;
        for (int i = 0; i < n; ++i) {
            const double x = work.x[stream.history + i];
            const double stepped = e + (is_kama ? row[i] : alpha) * (x - e);
            const double stepped2 = e2 + alpha * (stepped - e2);
            if (SETTLED || i >= holds) {
                e = stepped;
                e2 = stepped2;
            } else if (i == begins) {
                e = e2 = is_kama ? x : row[i];
            }
            put_average<SETTLED>(members, block, work, symbol, average, first, i, is_dema ? 2.0 * e - e2 : e);
        }
        *kept = e;
        if (is_dema) *second = e2;
    }
    SYNC();
}

// Signals from sides, in their place: a lane an average. `sides`, `signs`: the state's slots.
template <bool SETTLED>
DEVICE void signals(const Stream &stream, const Members &members, const Block &block, Work &work, I64 symbol,
                    double *sides, double *signs, int n, I64 t0) {
    LANES(average, AVERAGES) {
        int last = (int)sides[average], sign = (int)signs[average];
        const int first = first_of<SETTLED>(stream, average, t0);
        signed char *row = work.sign + average * ROW;
        row[0] = sign;
        for (int i = 0; i < n; ++i) {
            const int side = row[1 + i];
            if (i > first && side != last && side != 0) sign = side;
            last = side;
            row[1 + i] = sign;
            put(block.sign, members, block, symbol, AVERAGES, average, work.at[i], (double)sign);
        }
        sides[average] = last;
        signs[average] = sign;
    }
    SYNC();
}

// What a member keeps of a symbol: 54 equities, 6 of layer 2, 6 signals of layer 1.
DEVICE double *kept_of(const Members &members, const Block &block, I64 symbol, I64 m) {
    return block.equities + (symbol * members.members + READ(members.config, m)) * SLOTS;
}

// What equities of a layer are multiplied with.
DEVICE void factors(const Members &members, Work &work, I64 layer, int slot, int n, I64 t0) {
    const I64 m = READ(members.start, layer);
    const double *growth = members.growth + READ(members.growth_row, m) * members.growth_width;
    const double keep = READ(members.keep, m);
    const I64 begins = t0 - READ(members.cutout, m) - READ(members.growth_start, m);
    const I64 last = READ(members.growth_last, m);
    LANES(i, n) {
        const I64 k = begins + i;
        const double gain = work.returns[i] * READ(growth, k < 0 ? 0 : k > last ? last : k);
        double *factor = work.factor + (slot * TILE + i) * RULES;
        factor[0] = keep * (1.0 - gain);
        factor[1] = keep;
        factor[2] = keep * (1.0 + gain);
    }
    SYNC();
}

// An equity at bar i, after it was multiplied; it begins at bar `begins` of the tile.
DEVICE double limited(double value, int i, int begins, double start) {
    const double floored = value > FLOOR ? value : FLOOR;
    const double equity = floored < CEILING ? floored : CEILING;
    return i > begins ? equity : i == begins ? start : NOT_A_NUMBER;
}

// The same of one that has begun and stays below the ceiling, as the largest upper half so far tells.
DEVICE double floored(double value, int &largest) {
    const double equity = upper_half(value) < FLOOR_UPPER ? FLOOR : value;
    largest = upper_half(equity) > largest ? upper_half(equity) : largest;
    return equity;
}

// Layer 1: equities of averages `task` and `other` over the half of a tile that begins at `part`.
DEVICE void go_along(Work &work, double *kept, int slot, int task, int other, int part, int bars, int begins) {
    double *row = work.equity + task * PART_ROW, *other_row = work.equity + other * PART_ROW;
    const signed char *sign = work.sign + task * ROW + part, *other_sign = work.sign + other * ROW + part;
    const double *factor = work.factor + (slot * TILE + part) * RULES + 1;
    const double before = part ? row[PART] : kept[task], other_before = part ? other_row[PART] : kept[other];
    double e = before, f = other_before;
    int largest = begins < 0 ? 0 : NEAR_CEILING;
    if (begins < 0)
        for (int i = 0; i < bars; ++i) {
            row[1 + i] = e = floored(e * factor[i * RULES + sign[i]], largest);
            other_row[1 + i] = f = floored(f * factor[i * RULES + other_sign[i]], largest);
        }
    if (largest >= NEAR_CEILING) {
        e = before, f = other_before;
        for (int i = 0; i < bars; ++i) {
            row[1 + i] = e = limited(e * factor[i * RULES + sign[i]], part + i, begins, 1.0);
            other_row[1 + i] = f = limited(f * factor[i * RULES + other_sign[i]], part + i, begins, 1.0);
        }
    }
    kept[task] = e;
    kept[other] = f;
}

// Layer 2: the equity of a family over the tile, by its own sides.
DEVICE double go_along(const signed char *side, const double *factor, double *row, double before, int n, int begins,
                       double start) {
    double e = before;
    int largest = begins < 0 ? 0 : NEAR_CEILING;
    if (begins < 0)
        for (int i = 0; i < n; ++i) row[i] = e = floored(e * factor[i * RULES + side[i]], largest);
    if (largest >= NEAR_CEILING) {
        e = before;
        for (int i = 0; i < n; ++i) row[i] = e = limited(e * factor[i * RULES + side[i]], i, begins, start);
    }
    return e;
}

DEVICE signed char side_of(double q) { return q > 0.0 ? 1 : q < 0.0 ? -1 : 0; }

// Layer 1, half a tile at a time: equities, a lane two of them, then their sums by families and bars.
DEVICE void layer1(const Members &members, const Block &block, Work &work, I64 symbol, I64 layer, int slot, int n,
                   I64 t0) {
    const I64 m = READ(members.start, layer);
    const int begins = in_tile(READ(members.cutout, m), t0);
    double *kept = kept_of(members, block, symbol, m);
    double *q = work.q + slot * FAMILIES * ROW;
    signed char *q_side = work.side + slot * FAMILIES * ROW;
    LANES(family, FAMILIES) {
        q[family * ROW] = kept[AVERAGES + FAMILIES + family];
        q_side[family * ROW] = side_of(q[family * ROW]);
    }
    for (int part = 0; part < n; part += PART) {
        const int bars = n - part < PART ? n - part : PART;
        LANES(task, AVERAGES / 2) go_along(work, kept, slot, task, task + AVERAGES / 2, part, bars, begins);
        SYNC();
        LANES(task, FAMILIES * PART) {
            const int family = task / PART, i = task % PART;
            if (i >= bars) continue;
            const double *e = work.equity + family * NINE * PART_ROW + 1 + i;
            const signed char *sign = work.sign + family * NINE * ROW + 1 + part + i;
            double num = 0.0, den = 0.0;
            for (int j = 0; j < NINE; ++j) {
                const double now = e[j * PART_ROW];
                const int side = sign[j * ROW];
                const double voted = side > 0 ? now : side < 0 ? -now : 0.0;
                num = j ? num + voted : voted;
                den = j ? den + now : now;
            }
            const int at = family * ROW + 1 + part + i;
            q[at] = RINT(100.0 * (num / den));
            q_side[at] = side_of(q[at]);
        }
        SYNC();
        if (block.equity1) {
            for (I64 other = m; other < READ(members.start, layer + 1); ++other)
                LANES(task, AVERAGES * PART) {
                    const int average = task / PART, i = task % PART;
                    const I64 row = (READ(members.config, other) * block.symbols + symbol) * AVERAGES + average;
                    if (i < bars)
                        block.equity1[row * block.n_bars + work.at[part + i]] =
                            work.equity[average * PART_ROW + 1 + i];
                }
            SYNC();
        }
    }
}

// Layer 2 of `count` members from m0 on, whose layers 1 are in the workspace from layer l0 on, and their signals.
DEVICE void layer2(const Members &members, const Block &block, Work &work, I64 symbol, I64 m0, int count, I64 l0,
                   int n, I64 t0) {
    LANES(task, count * FAMILIES) {
        const int family = task % FAMILIES;
        const I64 m = m0 + task / FAMILIES;
        const int slot = (int)(READ(members.layer1, m) - l0);
        const int begins = in_tile(READ(members.cutout, m), t0);
        const int row = (slot * FAMILIES + family) * ROW;
        const double *factor = work.factor + slot * TILE * RULES + 1;
        const double start = READ(members.weights, m * FAMILIES + family);
        double *kept = kept_of(members, block, symbol, m) + AVERAGES + family;
        kept[0] = go_along(work.side + row, factor, work.vote + task * ROW, kept[0], n, begins, start);
        kept[FAMILIES] = work.q[row + n];
    }
    SYNC();
    LANES(task, count * TILE) {
        const int i = task % TILE;
        if (i >= n) continue;
        const I64 m = m0 + task / TILE, at = work.at[i];
        const double *q = work.q + (READ(members.layer1, m) - l0) * FAMILIES * ROW + 1 + i;
        const double *vote = work.vote + task / TILE * FAMILIES * ROW + i;
        const double up = (double)READ(members.up, m), down = (double)READ(members.down, m);
        const I64 row = READ(members.config, m) * block.symbols + symbol;
        double num = 0.0, den = 0.0;
        for (int family = 0; family < FAMILIES; ++family) {
            const double now = q[family * ROW], e = vote[family * ROW];
            const double voted = now > up ? e : now < down ? -e : 0.0;
            num = family ? num + voted : voted;
            den = family ? den + e : e;
            if (block.layer1) block.layer1[(row * FAMILIES + family) * block.n_bars + at] = now / 100.0;
            if (block.equity2) block.equity2[(row * FAMILIES + family) * block.n_bars + at] = e;
        }
        if (block.signal) block.signal[row * block.n_bars + at] = num / den;
    }
    SYNC();
}

// All members, as many layers at a time as the workspace has room for.
DEVICE void layers(const Members &members, const Block &block, Work &work, I64 symbol, int n, I64 t0) {
    for (I64 l0 = 0; l0 < members.layers; l0 += LAYERS) {
        const I64 stop = members.layers - l0 < LAYERS ? members.layers : l0 + LAYERS;
        for (I64 layer = l0; layer < stop; ++layer) {
            factors(members, work, layer, (int)(layer - l0), n, t0);
            layer1(members, block, work, symbol, layer, (int)(layer - l0), n, t0);
        }
        const I64 last = READ(members.start, stop);
        for (I64 m = READ(members.start, l0); m < last; m += MEMBERS)
            layer2(members, block, work, symbol, m, last - m < MEMBERS ? (int)(last - m) : MEMBERS, l0, n, t0);
    }
}

// Where the state has y of HMA's length j, and how many.
DEVICE double *y_kept(const Stream &stream, double *state, int j) {
    double *kept = state + 1 + stream.history;
    for (int before = 0; before < j; ++before) kept += READ(stream.smooth, before) - 1;
    return kept;
}

// The state's slots of a symbol, into the workspace and back.
DEVICE void load(const Stream &stream, Work &work, double *state) {
    LANES(i, 1) work.close[0] = state[0];
    LANES(i, (int)stream.history) work.x[i] = state[1 + i];
    if (!PINE)
        LANES(j, NINE) {
            const int rows = (int)READ(stream.smooth, j) - 1;
            const double *kept = y_kept(stream, state, j);
            double *y = work.y + j * (stream.y_rows + TILE) + stream.y_rows - rows;
            for (int k = 0; k < rows; ++k) y[k] = kept[k];
        }
    SYNC();
}

// Members that share a layer 1 each keep its equities.
DEVICE void store(const Stream &stream, const Members &members, const Block &block, Work &work, double *state,
                  I64 symbol) {
    for (I64 m = 0; m < members.members; ++m) {
        const I64 first = READ(members.start, READ(members.layer1, m));
        if (first == m) continue;
        const double *from = kept_of(members, block, symbol, first);
        double *kept = kept_of(members, block, symbol, m);
        LANES(average, AVERAGES) kept[average] = from[average];
    }
    LANES(i, (int)stream.history) state[1 + i] = work.x[i];
    if (!PINE)
        LANES(j, NINE) {
            const int rows = (int)READ(stream.smooth, j) - 1;
            double *kept = y_kept(stream, state, j);
            const double *y = work.y + j * (stream.y_rows + TILE) + stream.y_rows - rows;
            for (int k = 0; k < rows; ++k) kept[k] = y[k];
        }
    LANES(i, 1) state[0] = work.close[0];
    SYNC();
}

// After n bars: histories and the close to where the next tile looks for them.
DEVICE void turn(const Stream &stream, Work &work, int n) {
    const int history = (int)stream.history, y_rows = (int)stream.y_rows, y_width = y_rows + TILE;
    LANES(row, history) work.moved[row] = work.x[row + n];
    SYNC();
    LANES(row, history) work.x[row] = work.moved[row];
    LANES(i, 1) work.close[0] = work.close[n];
    SYNC();
    if (!PINE && y_rows) {
        LANES(task, NINE * y_rows) work.moved[task] = work.y[task / y_rows * y_width + task % y_rows + n];
        SYNC();
        LANES(task, NINE * y_rows) work.y[task / y_rows * y_width + task % y_rows] = work.moved[task];
        SYNC();
    }
}

// Averages of the tile and their signals.
template <bool SETTLED>
DEVICE void averages(const Stream &stream, const Members &members, const Block &block, Work &work, I64 symbol,
                     double *state, int n, I64 t0) {
    double *recursive = state + 1 + stream.history + stream.y_slots;
    double *sides = recursive + 4 * NINE, *signs = sides + AVERAGES;
    if (!SETTLED) seeds(stream, work, n);
    recursions<SETTLED>(stream, members, block, work, symbol, recursive, n, t0);
    if (PINE)
        windowed<SETTLED>(stream, members, block, work, symbol, HMA, n, t0);
    else
        hma<SETTLED>(stream, members, block, work, symbol, n, t0);
    windowed<SETTLED>(stream, members, block, work, symbol, WMA, n, t0);
    windowed<SETTLED>(stream, members, block, work, symbol, LSMA, n, t0);
    signals<SETTLED>(stream, members, block, work, symbol, sides, signs, n, t0);
}

DEVICE void advance_series(const Stream &stream, const Members &members, const Block &block, char *memory,
                           I64 symbol) {
    Work work = work_of(memory, stream);
    double *state = block.values + symbol * stream.width;
    load(stream, work, state);
    I64 t = block.bars[symbol];
    for (I64 from = 0; from < block.n_bars; from += TILE) {
        const int n = present(block, symbol, from, work);
        if (n == 0) continue;
        take_prices(stream, block, symbol, n, work);
        double_sums(stream, n, work);
        window_sums(stream, n, work);
        kama_constants(stream, work, n);
        if (t >= stream.settled)
            averages<true>(stream, members, block, work, symbol, state, n, t);
        else
            averages<false>(stream, members, block, work, symbol, state, n, t);
        layers(members, block, work, symbol, n, t);
        turn(stream, work, n);
        t += n;
    }
    store(stream, members, block, work, state, symbol);
    LANES(i, 1) block.bars[symbol] = t;
}

// Every symbol of a block. The tables hold the fields of the structures above, eight bytes each, addresses included.
// `scratch`: room for a workspace of `work_bytes` a block of threads where they are FAR.
KERNEL advance(const I64 *stream_table, const I64 *members_table, const I64 *block_table, char *scratch,
               I64 work_bytes) {
    const Stream stream = *(const Stream *)stream_table;
    const Members members = *(const Members *)members_table;
    const Block block = *(const Block *)block_table;
#ifdef HOST
    (void)work_bytes;
    for (I64 symbol = 0; symbol < block.symbols; ++symbol) advance_series(stream, members, block, scratch, symbol);
#else
#if FAR
    char *memory = scratch + blockIdx.x * work_bytes;
#else
    extern __shared__ __align__(8) char memory[];
#endif
    for (I64 symbol = blockIdx.x; symbol < block.symbols; symbol += gridDim.x)
        advance_series(stream, members, block, memory, symbol);
#endif
}
