"""What every command needs: results files, left-out items, synthetic users, service processes."""
