/* What _core may ask of a kernel: one table of functions per instruction-set level and dtype.
 *
 * Inside a kernel `real` is float or double (simd.h is included first); in _core, which is compiled once for
 * both, it is void. A kernel function allocates nothing, checks nothing and raises nothing.
 */
#ifndef CYLSTM_TABLE_H
#define CYLSTM_TABLE_H

#ifndef CYLSTM_SIMD_H
typedef void real;
#endif

#define KERNEL_TABLE_NAME "cylstm.kernel_table"

/* One product of a few rows with a few vectors of packed weights, for v < vectors, r < rows:
 *
 *     out[r][out_offset + v] = start[r][start_offset + v] + sum_k x[r][x_offset + k] * weights[k][v]
 *
 * for one operand after the other, summed in the order of k, each term by one v_fma. Offsets in elements. Where total is
 * not NULL, what would be stored is added to total[r][out_offset + v] instead; `tile` alone looks at that.
 * out[r] + out_offset may be start[r] + start_offset; nothing else may overlap.
 */
typedef struct {
    Py_ssize_t depth;               /* K; 0: nothing else is looked at */
    const real *const *x;           /* (rows,) pointers                       IN */
    Py_ssize_t x_offset;
    const real *weights;            /* (K, step), the first vectors * LANES of each k used, or half as many  IN */
    Py_ssize_t second_half;         /* where vectors is over 4: so many elements after the first half */
    const char *next;               /* what will be read soon: a tile of three rows or more fetches a line of it to L2 for
                                       each k, one of fewer its own weights to L1, AHEAD of their use; the first
                                       operand's NULL: nothing is fetched */
} tile_operand;

typedef struct {
    tile_operand operands[2];       /* say x with W_ih, then h with W_hh: the sums stay in registers */
    Py_ssize_t weights_step;        /* elements from one k to the next, in both */
    const real *const *start;       /* (rows,) pointers                       IN */
    Py_ssize_t start_offset;
    real *const *out;               /* (rows,) pointers                       OUT */
    Py_ssize_t out_offset;
    real *const *total;             /* (rows,) pointers, or NULL              INOUT */
} tile_product;

/* An activation, or its derivative, by what kind it is; alpha and beta where it has them. SOFTMAX is of a whole row, so
 * no cell has it. */
enum {
    SIGMOID, TANH, RELU, LEAKY_RELU, THRESHOLDED_RELU, AFFINE, SCALED_TANH, HARD_SIGMOID, ELU, SOFTSIGN, SOFTPLUS,
    LINEAR, SWISH, GELU, SOFTMAX
};

typedef struct {
    int kind;
    double alpha, beta;
} activation;

enum { UNCOUPLED, FORGET_IS_REST, INPUT_IS_REST };      /* f = 1 - i; i = 1 - f */
enum { NOT_NORMALISED, NORMALISED_JOINTLY, NORMALISED_PER_GATE };

/* What a cell does that has options, the same in every step. The rows of `extras` are parameters of one value per
 * unit, padded with zeros to whole blocks; the fields after it say where some begin. */
typedef struct {
    activation gate, candidate, output, projection;
    double clip_gates, clip_cell, clip_projection;      /* infinity: not clipped */
    int coupling;
    int normalisation;
    double epsilon;                 /* added to the variance */
    const real *extras;             /* (n, width) */
    Py_ssize_t width;               /* blocks * LANES */
    Py_ssize_t peephole;            /* rows i, f, o; with coupling the kept one, o; -1: none */
    Py_ssize_t gain;                /* G rows: of the normalised sums, jointly: of those of x */
    Py_ssize_t gain_h;              /* G rows: of the normalised sums of h */
    Py_ssize_t shift;               /* G rows: the bias, where it follows a normalisation */
    Py_ssize_t gain_c, shift_c;     /* a row each */
} cell_options;

#define BESIDE_TERMS 40             /* of a product, made between the lines of two `activate`, 2 + 4 + 6 + 4 + 4 in each */
#define VARIANT_SCRATCH 24          /* rows of `width` that a variant's row function may use */

/* Forwards some units of some rows of one step, backwards all units of all of them. Each pointer is to a row's first
 * unit (gates: to its first block). */
typedef struct {
    real *const *gates;             /* (blocks, G, LANES)  INOUT  in: pre-activations, out: activations; variants only read them */
    real *const *recurrent;         /* (blocks, G, LANES)  INOUT  of a cell that needs them apart: what h adds to them */
    const real *const *h_prev;      /* (H,)  IN */
    const real *const *c_prev;      /* (H,)  IN */
    real *const *c;                 /* (H,)  OUT  may be c_prev */
    real *const *h;                 /* (H,)  OUT */
    real *const *y;                 /* (H,)  OUT  the layer's output, the same values as h. In a second phase h, h_prev and y are (P,),
                                       and units counts those */
    real *const *second;            /* (blocks, LANES)  INOUT  the sums of a second product, where there is one */
    const cell_options *options;    /* of a cell that has some */
    real *scratch;                  /* (VARIANT_SCRATCH, width) for those */
    Py_ssize_t first, count;        /* the rows first .. first + count - 1 */
    Py_ssize_t gates_offset;        /* where the gates of the first block begin */
    Py_ssize_t recurrent_offset;    /* likewise */
    Py_ssize_t unit_offset, units;  /* the hidden units unit_offset .. unit_offset + units - 1; offset: whole blocks */
    Py_ssize_t ahead;               /* h and y are stored next so many units on (negative: back): fetched. 0: nothing is */
} forward_rows;

typedef struct {
    real *const *gates;             /* (blocks, G, LANES)  INOUT  in: as forward left them, out: dgates */
    real *const *recurrent;         /* (blocks, G, LANES)  INOUT  as forward left it; out: the dgates that h gets */
    const real *const *h_prev;      /* (H,)  IN */
    const real *const *c_prev;      /* (H,)  IN */
    const real *const *c;           /* (H,)  IN */
    const real *const *dy;          /* (H,)  IN     gradient of this step's output */
    real *const *dh;                /* (blocks, LANES)  INOUT  in: what the next step sends back; out: what h_prev gets
                                       past the recurrent product, if the cell has such a path */
    real *const *dc;                /* (blocks, LANES)  INOUT  in: dL/dc_t of the next step, out: dL/dc_{t-1} */
    Py_ssize_t count;               /* rows */
    Py_ssize_t units;               /* hidden units: all of a row */
    real *const *second;            /* (blocks, LANES)  INOUT  in: sums, out: the gradient of those */
    real *const *dh_prev;           /* (blocks, LANES)  INOUT  gru_before adds what h_prev gets beside its product */
    real *const *dextras;           /* (n, width)  INOUT  the gradients of options.extras are added, for each row apart */
    const cell_options *options;
    real *scratch;
} backward_rows;

typedef void forward_function(const forward_rows *rows);
typedef void forward_beside_function(const forward_rows *rows, const tile_product *product);
typedef void backward_function(const backward_rows *rows);

/* One step of an optimiser over one array of parameters; updates.pxi says which moments and numbers a rule has. No two
 * of the arrays overlap. */
typedef struct {
    Py_ssize_t count;
    const real *g;                  /* (count,)  IN     the gradient */
    const real *p;                  /* (count,)  IN     the parameters */
    real *p_new;                    /* (count,)  OUT */
    real *moments[3];               /* (count,) each  INOUT */
    double numbers[5];
} update;
typedef void update_function(const update *at);

typedef struct {
    Py_ssize_t itemsize;
    Py_ssize_t lanes;
    Py_ssize_t tile_rows;           /* rows of the largest tile */
    Py_ssize_t stretch_bytes;       /* of weights, which all rows use before the next; 0: what L1 holds beside
                                       the rows, which dispatch.pyx puts here */
    /* rows <= tile_rows with vectors <= 4; rows = 1 with 6 or 8, two panels of half as many */
    void (*tile)(Py_ssize_t rows, Py_ssize_t vectors, const tile_product *product);
    /* ``rounds`` times 12 multiply-adds of vectors that do not wait for each other, and no memory: the peak of the units */
    void (*multiply_adds)(Py_ssize_t rounds, real *sums);
    /* tile for one row, vectors <= 4, the first operand alone and a depth that 8 divides, in whatever order is
     * fastest: for backward alone. */
    void (*sum_row)(Py_ssize_t vectors, const tile_product *product);
    /* One vector of weights for every k: out[k * out_step + lane] = from[lane * lane_step + k] for lane < units, and 0 up
     * to LANES. */
    void (*pack)(Py_ssize_t depth, Py_ssize_t units, const real *from, Py_ssize_t lane_step, real *out,
                 Py_ssize_t out_step);
    /* And back: out[lane * lane_step + k] = from[k * from_step + lane] for lane < units. */
    void (*unpack)(Py_ssize_t depth, Py_ssize_t units, const real *from, Py_ssize_t from_step, real *out,
                   Py_ssize_t lane_step);
    /* lstm_forward of one block of the row rows->first, whose count makes no difference, and a tile of one row and four vectors,
     * of another block. The last operand of that has at least BESIDE_TERMS terms, and its `next` is not looked at. Its sums
     * are stored last, so they may be where the gates were. NULL where it does not pay. */
    forward_beside_function *lstm_forward_beside;
    forward_function *lstm_forward, *gru_forward, *rnn_tanh_forward, *rnn_relu_forward;
    backward_function *lstm_backward, *gru_backward, *rnn_tanh_backward, *rnn_relu_backward;
    /* With options; and of cells in two phases, a second product between two row functions. The first writes its h
     * where that product reads: into y too. Backward, the second's comes first. */
    forward_function *lstm_variant_forward, *gru_variant_forward, *rnn_variant_forward;
    forward_function *gru_before_forward, *gru_before_second_forward, *projection_forward;
    backward_function *lstm_variant_backward, *gru_variant_backward, *rnn_variant_backward;
    backward_function *gru_before_backward, *gru_before_second_backward, *projection_backward;
    /* Rows of noise, each array (count,). */
    void (*blend)(Py_ssize_t count, const real *keep, const real *old, const real *fresh, real *out, real *copy);
    void (*unblend)(Py_ssize_t count, const real *keep, const real *dy, real *d, real *carry);
    void (*scale)(Py_ssize_t count, const real *factors, const real *x, real *out);
    void (*add)(Py_ssize_t count, const real *x, real *to);
    /* One row of a layer that has no state, each array (count,). x INOUT: z -> f(z). z: what f was of, spoilt;
     * dy INOUT: dL/df(z) -> dL/dz. */
    void (*activate)(const activation *f, Py_ssize_t count, real *x);
    void (*activate_backward)(const activation *f, Py_ssize_t count, real *z, real *dy);
    /* x INOUT: x -> gain N(x) + shift. Backward, x: what forward was given, spoilt; dy INOUT: dL/dy -> dL/dx; dgain,
     * dshift INOUT: what this row brings is added. */
    void (*layer_norm)(Py_ssize_t count, double epsilon, const real *gain, const real *shift, real *x);
    void (*layer_norm_backward)(Py_ssize_t count, double epsilon, const real *gain, real *x, real *dy, real *dgain,
                                real *dshift);
    update_function *sgd, *nesterov, *rmsprop, *adam;
    double (*sum_of_squares)(Py_ssize_t count, const real *x);
    int (*all_finite)(Py_ssize_t count, const real *x);
    void (*rescale)(Py_ssize_t count, double factor, real *x);
} kernel_table;

#endif /* CYLSTM_TABLE_H */
