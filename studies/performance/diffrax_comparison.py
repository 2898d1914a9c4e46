"""10,000 replicas of 8 dimensions beside diffrax, in one process on one core.

Needs jax and diffrax (`pip install jax diffrax`), which nothing else here does; `run.py` does not
call it.

python studies/performance/diffrax_comparison.py            # about two minutes
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"

import diffrax
import jax
import jax.numpy as jnp
import lineax
import torch

from sdeverify.benchmarks.drawing import DIMENSIONS, RATE, REPLICAS, SIGMA, bare, our_loop
from sdeverify.benchmarks.measuring import Effort, interleaved

STEPS = 1000
SHAPE = (REPLICAS, DIMENSIONS)


def diffrax_solution(dtype: jnp.dtype) -> Callable[[], object]:
    """Euler's method on the same equation, d y = -y dt + s dW, the state one array.

    Its fastest Brownian motion; the one that can be asked for any time again costs far more.
    """
    noise = lineax.DiagonalLinearOperator(jnp.full(SHAPE, RATE**0.5 * SIGMA, dtype))

    @jax.jit
    def solve(key: jax.Array) -> jax.Array:
        shape = jax.ShapeDtypeStruct(SHAPE, dtype)
        brownian = diffrax.UnsafeBrownianPath(shape=shape, key=key)
        terms = diffrax.MultiTerm(
            diffrax.ODETerm(lambda t, y, args: -RATE * y),
            diffrax.ControlTerm(lambda t, y, args: noise, brownian),
        )
        solution = diffrax.diffeqsolve(
            terms,
            diffrax.Euler(),
            t0=0.0,
            t1=float(STEPS),
            dt0=1.0,
            y0=jnp.zeros(SHAPE, dtype),
            saveat=diffrax.SaveAt(t1=True),
            adjoint=diffrax.DirectAdjoint(),
            max_steps=STEPS + 1,
        )
        return solution.ys

    return lambda: solve(jax.random.key(0)).block_until_ready()


def jax_normals(dtype: jnp.dtype) -> Callable[[], object]:
    """The bare drawing of the same normals by jax."""

    @jax.jit
    def draw(key: jax.Array) -> jax.Array:
        def step(total: jax.Array, key: jax.Array) -> tuple[jax.Array, None]:
            return total + jax.random.normal(key, SHAPE, dtype), None

        return jax.lax.scan(step, jnp.zeros(SHAPE, dtype), jax.random.split(key, STEPS))[0]

    return lambda: draw(jax.random.key(0)).block_until_ready()


def main() -> None:
    """Prints seconds, in units of torch's bare drawing."""
    jax.config.update("jax_enable_x64", True)
    torch.set_num_threads(1)
    for ours, theirs in ((torch.float32, jnp.float32), (torch.float64, jnp.float64)):
        seconds = interleaved(
            {
                "bare drawing, torch": partial(bare, ours, STEPS),
                "our loop": our_loop(ours, STEPS),
                "our loop, compiled": our_loop(ours, STEPS, compiled=True),
                "bare drawing, jax": jax_normals(theirs),
                "diffrax, UnsafeBrownianPath": diffrax_solution(theirs),
            },
            Effort(rounds=5, seconds=30.0),
        )
        print(f"{ours}, {REPLICAS:,} x {DIMENSIONS} x {STEPS:,}")
        for name, value in seconds.items():
            print(f"  {name:30s} {value:7.3f} s  {value / seconds['bare drawing, torch']:5.2f}")


if __name__ == "__main__":
    main()
