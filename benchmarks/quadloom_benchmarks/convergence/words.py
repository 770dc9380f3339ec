"""A race's conditions in words."""

from quadloom_benchmarks.convergence.play import Play


def in_words(plays: Play) -> str:
    """Fleet, split, training and budget."""
    settings, fleet = plays.settings, plays.fleet
    groups = ", ".join(
        f"{group.count} {group.name} (slowdown {group.slowdown or 'of its profile'}, "
        f"{f'holds {group.holds}' if group.holds else group.memory_limit})"
        for group in fleet.group
    )
    split = {
        "iid": "",
        "group": f", correlation {fleet.data.correlation:g}",
        "dirichlet": f", alpha {fleet.data.alpha:g}",
    }
    return (
        f"{sum(group.count for group in fleet.group)} devices, {fleet.devices_per_round} a round: {groups}; split "
        f"{fleet.data.split}{split[fleet.data.split]}; {settings.steps} steps a round, learning rate of "
        f"the head {settings.training.head_learning_rate:g}; {plays.budget_s:g} virtual s"
    )
