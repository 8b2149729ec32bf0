"""What a run will be and cost, before it starts: run_clm.py RECIPE --plan."""
