"""Training: the loop, recipes, schedule, weight averaging, the state that lets it go on."""
