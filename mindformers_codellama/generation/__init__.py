"""Sampling, stopping and the token loop; numpy only, works with any decoder."""
