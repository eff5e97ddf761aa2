// Sends and reads as a service with each client would: clients CLIENT, asked by JSON on standard input.
package main

import (
	"encoding/json"
	"log"
	"os"
)

type asked struct {
	Do       string            `json:"do"`
	Servers  string            `json:"servers"`
	Topic    string            `json:"topic"`
	Keys     []string          `json:"keys"`
	Value    string            `json:"value"`
	Until    string            `json:"until"`
	Settings map[string]string `json:"settings"`
}

// isSet tells whether the client is to be set up as the documents say; without it, it has its own defaults.
func (a asked) isSet() bool {
	return len(a.Settings) > 0
}

type client struct {
	// send sends a record for each key; an error unless Kafka has confirmed them all.
	send func(asked) error
	// read returns the values of the records up to the one that is asked for.
	read func(asked) ([]string, error)
}

var clients = map[string]client{
	"franz-go": {sendFranzGo, readFranzGo},
	"kafka-go": {sendKafkaGo, readKafkaGo},
	"sarama":   {sendSarama, readSarama},
}

func main() {
	log.SetFlags(0)
	var a asked
	if err := json.NewDecoder(os.Stdin).Decode(&a); err != nil {
		log.Fatal(err)
	}
	client := clients[os.Args[1]]
	if a.Do == "send" {
		if err := client.send(a); err != nil {
			log.Fatal(err)
		}
		return
	}
	values, err := client.read(a)
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(values)
	}
	if err != nil {
		log.Fatal(err)
	}
}
