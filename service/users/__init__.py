"""Users as this process knows them, also while the store is away."""
