def uniform(rng, shape, dtype, bound):
    return rng.uniform(-bound, bound, shape).astype(dtype)
