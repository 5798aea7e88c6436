"""The inverse temperature over a run: fixed, or annealed from a soft code to a hard one."""

from collections.abc import Callable

from iom.config.hashing import HasherConfig


def annealed_temperature(config: HasherConfig, *, steps: int) -> Callable[[int], float] | None:
    """Inverse temperature at each step of a run.

    A pure function of the step, which reaches the graph as an input of the batch: there is no state
    to save, and a run that was killed goes on at the temperature it would have had.

    Args:
        config: `inverse_temperature` at step 0, `inverse_temperature_end` at the last.
        steps: Of the whole run.

    Returns:
        Step, from 0 -> T; `None` where T is fixed.
    """
    start, end = config.inverse_temperature, config.inverse_temperature_end
    if end in (0.0, start):
        return None
    last = max(steps - 1, 1)

    def at(step: int) -> float:
        share = min(step / last, 1.0)
        if config.annealing == "linear":
            return start + (end - start) * share
        return float(start * (end / start) ** share)

    return at
