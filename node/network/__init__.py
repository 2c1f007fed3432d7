"""The only room that imports libp2p: host, identity, peers, DHT, gossip, messages."""
