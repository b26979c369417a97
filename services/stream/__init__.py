"""What all services share: events, errors, the bus contract and both logs, the consumer loop, metrics."""
