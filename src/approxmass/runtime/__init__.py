"""This machine and this process: devices, threads, random numbers, stops, progress bars."""
