"""Split galleries: XOR shares of codes at two servers, joint comparison, dealt correlations."""
