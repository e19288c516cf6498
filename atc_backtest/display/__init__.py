"""What people see in a terminal: of prices, of stores, of runs. Only `terminal` knows how it is drawn."""
