"""What a Keras model is made of: its calls, its layers, copies of it. Knows nothing of the rest."""
