"""Training: schedules and batches as pure functions of the step, and the one loop that uses them."""
