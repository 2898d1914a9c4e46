"""How an ensemble moves by one step: an optimizer, Euler-Maruyama, torchsde."""
