"""Training that begins with a trained model: what is taken over, what is new, what moves."""
