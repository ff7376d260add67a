"""Global time split: user days after a day, the arms that predict them, the replay of all."""
