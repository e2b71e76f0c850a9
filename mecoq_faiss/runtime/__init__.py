"""What the program runs on and how it shows: devices, FAISS, progress, suggestions."""
